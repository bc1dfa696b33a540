//! A question on the terminal before something is discarded for good.

use crate::cli::Failure;
use std::io::{IsTerminal, Write};

/// Asks whether `what` is to be discarded; an error where nobody says yes.
pub fn discard(what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("nobody is here to confirm: add --yes, or --dry-run to see how many it is".into()));
    }
    let mut err = std::io::stderr();
    write!(err, "Discard {what} for good? [y/N] ")
        .and_then(|()| err.flush())
        .map_err(|e| Failure::io("cannot ask", e))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Failure::io("cannot read the answer", e))?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Operation("nothing was discarded".into())),
    }
}
