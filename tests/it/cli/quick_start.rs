//! The quick start of README: runs its commands exactly as written.

use crate::harness::bench::wait_for;
use crate::harness::process::{BINARY, free_address};
use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The first block of shell commands below the heading, without the build, which has been done already.
fn commands() -> String {
    let readme = std::fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    let (_, below) = readme.split_once("\n## Quick start\n").expect("README has a quick start");
    let (_, block) = below.split_once("\n```sh\n").expect("with a block of commands");
    let lines = block.split_once("\n```").unwrap().0.lines();
    lines.filter(|line| !line.starts_with("cargo ")).map(|line| format!("{line}\n")).collect()
}

/// A shell that runs the commands with free ports instead of the usual ones.
///
/// Two programs on its path replace the pauses of a person: `sleep` waits until the daemon is ready, and the list of
/// events is printed only after one has been delivered.
struct Shell {
    child: Child,
    folder: tempfile::TempDir,
}

impl Shell {
    fn run(commands: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let [receiver, intake, admin] = [(); 3].map(|()| free_address().to_string());
        let until = |condition: &str| format!("for n in $(seq 600); do {condition} && break; /bin/sleep 0.1; done");
        let ready = until(&format!("{BINARY} status >/dev/null 2>&1"));
        let delivered = until(&format!("{BINARY} status --json | grep -q '\"delivered\":1'"));
        let holdline = format!(
            "#!/bin/sh\n\
             case $1 in\n\
             serve) set -- \"$@\" --intake {intake} --admin {admin};;\n\
             events) {delivered};;\n\
             esac\n\
             exec {BINARY} \"$@\"\n"
        );
        let program = |name: &str, script: &str| {
            let file = path.join("bin").join(name);
            std::fs::write(&file, script).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        };
        std::fs::create_dir(path.join("bin")).unwrap();
        program("holdline", &holdline);
        program("sleep", &format!("#!/bin/sh\n{ready}\n"));
        symlink(format!("{ROOT}/tests"), path.join("tests")).unwrap();
        let mut commands = commands.to_owned();
        for (port, address) in [(9000, &receiver), (8080, &intake), (8081, &admin)] {
            commands = commands.replace(&format!("127.0.0.1:{port}"), address);
        }
        let out = File::create(path.join("out")).unwrap();
        let mut shell = Command::new("bash");
        shell.current_dir(path).args(["-e", "-c", &commands]).process_group(0).stdin(Stdio::null());
        shell.stdout(out.try_clone().unwrap()).stderr(out);
        let old_path = std::env::var("PATH").unwrap();
        shell.env("PATH", format!("{}:{old_path}", path.join("bin").display()));
        shell.env("HOLDLINE_ADMIN", format!("http://{admin}"));
        for name in ["HOLDLINE_ADMIN_TOKEN", "HOLDLINE_CONFIG", "HOLDLINE_LOG", "NOTIFY_SOCKET"] {
            shell.env_remove(name);
        }
        Self { child: shell.spawn().unwrap(), folder }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("out")).unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_quick_start_of_readme_works_as_pasted() {
    let commands = commands();
    for word in ["holdline receive", "holdline serve --to", "curl ", "holdline status", "holdline events list"] {
        assert!(commands.contains(word), "`{word}` is not in the quick start:\n{commands}");
    }
    let mut shell = Shell::run(&commands);
    let ended = wait_for("the commands end", async || shell.child.try_wait().unwrap()).await;
    let output = shell.output();
    assert!(ended.success(), "{output}");
    for word in [" POST /hooks 200 ", "\"status\":\"queued\"", "running, started", "delivered  "] {
        assert!(output.contains(word), "`{word}` is not in:\n{output}");
    }
}
