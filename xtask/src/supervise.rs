//! Runs a verb in a process of its own that cleans up whatever ends this one: the end of a pipe, which the kernel
//! closes also after Ctrl-C and SIGKILL, tells it. So no signal handler is needed.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use bib_benches::Result;
use bib_benches::failure::During;

/// Set in the supervised process.
const MARK: &str = "BIB_XTASK_SUPERVISED";
/// The exit code of a verb that was interrupted.
const INTERRUPTED: u8 = 130;

/// Whether this is the supervised process.
pub fn is_supervised() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the same verb again, supervised, and ends as it does.
pub fn supervise() -> Result<ExitCode> {
    let program = std::env::current_exe().during("find the own program")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(MARK, "1").stdin(Stdio::piped());
    // Ctrl-C goes to the group of the terminal: only this process shall die of it at once.
    command.process_group(0);
    let mut child = command.spawn().during("start the verb")?;
    // Held open until the verb is over: `wait` alone would close it first.
    let pipe = child.stdin.take();
    let status = child.wait().during("wait for the verb")?;
    drop(pipe);
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(INTERRUPTED)))
}

/// In the supervised process: removes what every lab made and ends, as soon as the supervisor is gone.
pub fn clean_up_after_supervisor() {
    std::thread::spawn(|| {
        let mut byte = [0];
        // The supervisor never writes.
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        bib_benches::lab::abandon();
        // A compiler that runs is in the same group; nobody is left to read an exit code.
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
    });
}
