//! `holdline completions` and `holdline man`: what packages bring beside the program, made from its own definition.

use crate::cli::{Cli, Failure, output};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `holdline completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Arguments of `holdline man`.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// An existing directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the completions of a shell to stdout.
pub fn completions(args: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "holdline", &mut script);
    let script = String::from_utf8(script).map_err(|e| Failure::Operation(format!("{}: {e}", named(args.shell))))?;
    output::text(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn named(shell: Shell) -> String {
    shell.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// Writes a page for the program and one for each of its commands.
pub fn man(args: &Man) -> Result<ExitCode, Failure> {
    let shown = args.directory.display();
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .map_err(|e| Failure::io(format!("cannot write manual pages to {shown}"), e))?;
    Ok(ExitCode::SUCCESS)
}
