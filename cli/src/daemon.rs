//! Runs `bibd <verb>` for what cannot be asked of a running node, because the node must not run meanwhile.
//!
//! `bibd` is the one beside `bib`, else the first in `PATH`. It says its results on stdout, remarks on stderr, and why
//! it failed in two last lines there, `bibd: …` and `hint: …`, with the exit code that `bib` has for the same.
//! Secrets go to it on its stdin, never on its line, which others can see.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bib_core::api::ErrorCode;

use crate::Context;
use crate::error::{CliError, Result};

/// Name of the program.
const PROGRAM: &str = "bibd";
/// Longest line of its output, in bytes; what is longer comes in parts.
const MAX_LINE: u64 = 64 << 10;

/// Runs a verb of `bibd` to its end. `stdin` is what it reads; each line of its results is given to `on_line`.
///
/// # Errors
/// What `bibd` said, with its hint; or that there is no `bibd`; or the error of `on_line`, after `bibd` has ended.
pub(crate) fn run<S: AsRef<OsStr>>(
    ctx: &Context,
    args: impl IntoIterator<Item = S>,
    stdin: &[u8],
    on_line: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let beside = std::env::current_exe().ok().and_then(|bib| Some(bib.parent()?.join(PROGRAM)));
    let program = find(beside, ctx.environment.get("PATH")).ok_or_else(|| {
        CliError::new(ErrorCode::NotFound, "there is no `bibd` beside `bib`, and none in PATH")
            .hint("run this on the machine of the node, with bibd installed")
    })?;
    ctx.ui.detail(&format!("running {}", program.display()));
    let mut command = Command::new(&program);
    command.args(args);
    run_program(command, stdin, |text| ctx.ui.note(text), on_line)
}

fn find(beside: Option<PathBuf>, path: Option<&str>) -> Option<PathBuf> {
    let in_path = path.into_iter().flat_map(|path| path.split(':')).filter(|dir| dir.starts_with('/'));
    beside.into_iter().chain(in_path.map(|dir| Path::new(dir).join(PROGRAM))).find(|program| program.is_file())
}

fn run_program(
    mut command: Command,
    stdin: &[u8],
    mut on_remark: impl FnMut(&str) + Send,
    mut on_line: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let program = PathBuf::from(command.get_program());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| CliError::io("run", &program, &error))?;
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(out), Some(err)) = streams else {
        return Err(CliError::new(ErrorCode::Internal, "bibd was started without its streams"));
    };
    let (taken, said) = std::thread::scope(|scope| {
        // Each stream has its own thread: a full pipe on one would else hold up the others.
        scope.spawn(move || {
            // One that fails early does not read it all; its error says why.
            let _ = input.write_all(stdin);
        });
        let said = scope.spawn(move || remarks(err, &mut on_remark));
        let mut taken = Ok(());
        each_line(out, |line| {
            if taken.is_ok() {
                taken = on_line(line);
            }
        });
        (taken, said.join().unwrap_or_default())
    });
    let status = child.wait().map_err(|error| CliError::io("wait for", &program, &error))?;
    if status.success() {
        return taken;
    }
    let Said { failure, hint } = said;
    let message = failure.unwrap_or_else(|| format!("`{}` ended early: {status}", program.display()));
    Err(CliError::new(code(status.code()), message).hint(hint.unwrap_or_else(|| "`bibd --help` shows how".to_owned())))
}

/// What `bibd` said of its failure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    failure: Option<String>,
    hint: Option<String>,
}

fn remarks(stream: impl Read, on_remark: &mut impl FnMut(&str)) -> Said {
    let mut said = Said::default();
    each_line(stream, |line| match (line.strip_prefix("bibd: "), line.strip_prefix("hint: ")) {
        (Some(failure), _) => said.failure = Some(failure.to_owned()),
        (_, Some(hint)) => said.hint = Some(hint.to_owned()),
        _ => on_remark(line),
    });
    said
}

fn each_line(stream: impl Read, mut take: impl FnMut(&str)) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
        }
    }
}

/// The word that is nearest to an exit code of `bibd`.
const fn code(exit: Option<i32>) -> ErrorCode {
    match exit {
        Some(1) => ErrorCode::Precondition,
        Some(2) => ErrorCode::Invalid,
        Some(3) => ErrorCode::NotFound,
        Some(5) => ErrorCode::Denied,
        Some(6) => ErrorCode::Integrity,
        Some(7) => ErrorCode::Timeout,
        _ => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use bib_core::api::Failure;

    use super::*;

    /// Plays `bibd` with a shell script; returns what was taken of its results and remarks.
    fn play(script: &str, stdin: &[u8]) -> (Result<()>, Vec<String>, Vec<String>) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let (mut lines, mut remarks) = (Vec::new(), Vec::new());
        let result = run_program(
            command,
            stdin,
            |remark| remarks.push(remark.to_owned()),
            |line| {
                lines.push(line.to_owned());
                Ok(())
            },
        );
        (result, lines, remarks)
    }

    #[test]
    fn results_and_remarks_are_told_apart_and_stdin_arrives() {
        let (result, lines, remarks) = play("cat; echo working >&2", b"one\ntwo");
        result.unwrap();
        assert_eq!((lines, remarks), (vec!["one".to_owned(), "two".to_owned()], vec!["working".to_owned()]));
    }

    #[test]
    fn failure_of_bibd_becomes_that_of_bib() {
        let script =
            "echo working >&2; echo 'bibd: the share 2 is damaged' >&2; echo 'hint: type it again' >&2; exit 6";
        let (result, _, remarks) = play(script, &[0; 100_000]);
        let CliError::Failure(Failure { code, message, hint }) = result.unwrap_err() else { panic!("a failure") };
        assert_eq!((code, message.as_str()), (ErrorCode::Integrity, "the share 2 is damaged"));
        assert_eq!((hint.as_deref(), remarks.len()), (Some("type it again"), 1));
    }

    #[test]
    fn end_without_a_word_is_an_error_too() {
        let (result, ..) = play("kill -9 $$", b"");
        let CliError::Failure(failure) = result.unwrap_err() else { panic!("a failure") };
        assert!(failure.message.contains("ended early") && failure.hint.is_some(), "{failure:?}");
    }

    #[test]
    fn much_output_on_both_streams_blocks_nobody() {
        let script = "i=0; while [ $i -lt 2000 ]; do echo result-result-result-result-result-result-result; \
                      echo remark-remark-remark-remark-remark-remark-remark >&2; i=$((i+1)); done";
        let (result, lines, remarks) = play(script, &[b'x'; 300_000]);
        result.unwrap();
        assert_eq!((lines.len(), remarks.len()), (2_000, 2_000));
    }

    #[test]
    fn program_beside_bib_comes_before_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let (beside, path) = (dir.path().join("a").join(PROGRAM), dir.path().join("b"));
        let paths = format!("relative:{}", path.display());
        assert_eq!(find(Some(beside.clone()), Some(&paths)), None);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(PROGRAM), "").unwrap();
        assert_eq!(find(Some(beside.clone()), Some(&paths)), Some(path.join(PROGRAM)));
        std::fs::create_dir_all(beside.parent().unwrap()).unwrap();
        std::fs::write(&beside, "").unwrap();
        assert_eq!(find(Some(beside.clone()), Some(&paths)), Some(beside));
    }
}
