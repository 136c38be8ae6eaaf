//! `bib completions`: scripts for shells, made from the same declarations as the parser and the help.

use std::fmt::Write;
use std::str::FromStr;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, FromArgs};

use crate::Context;
use crate::args::{Bib, GLOBAL_FLAGS};
use crate::error::Result;

/// print the completions for a shell
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "completions",
    help_triggers("-h", "--help"),
    example = "{command_name} bash > ~/.local/share/bash-completion/completions/bib\n\
    {command_name} zsh > ~/.zfunc/_bib\n\
    {command_name} fish > ~/.config/fish/completions/bib.fish"
)]
pub(crate) struct CompletionsArgs {
    /// bash, zsh or fish
    #[argh(positional)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl FromStr for Shell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bash" => Ok(Self::Bash),
            "zsh" => Ok(Self::Zsh),
            "fish" => Ok(Self::Fish),
            _ => Err(format!("`{text}` is none of bash, zsh, fish")),
        }
    }
}

pub(crate) fn run(ctx: &Context, args: &CompletionsArgs) -> Result<()> {
    let nodes = nodes();
    let script = match args.shell {
        Shell::Bash => bash(&nodes),
        Shell::Zsh => zsh(&nodes),
        Shell::Fish => fish(&nodes),
    };
    ctx.ui.line(script.trim_end())
}

/// A command with what may follow it.
struct Node {
    /// `bib key new`.
    path: String,
    /// Sub-commands and flags, each with what it is for.
    words: Vec<(String, String)>,
}

fn nodes() -> Vec<Node> {
    fn visit(path: String, info: &CommandInfoWithArgs, nodes: &mut Vec<Node>) {
        let mut words: Vec<(String, String)> =
            info.commands.iter().map(|sub| (sub.name.to_owned(), plain(sub.command.description))).collect();
        for flag in info.flags.iter().filter(|flag| !flag.hidden && flag.long != "--help") {
            let value = match flag.kind {
                FlagInfoKind::Option { arg_name } => format!(" <{arg_name}>"),
                FlagInfoKind::Switch => String::new(),
            };
            words.push((flag.long.to_owned(), format!("{}{value}", plain(flag.description))));
        }
        words.push(("--help".to_owned(), "show how it is used".to_owned()));
        words.extend(GLOBAL_FLAGS.iter().map(|flag| (flag.long.to_owned(), flag.help.to_owned())));
        nodes.push(Node { path: path.clone(), words });
        for sub in &info.commands {
            visit(format!("{path} {}", sub.name), &sub.command, nodes);
        }
    }
    let mut nodes = Vec::new();
    visit("bib".to_owned(), &Bib::get_args_info(), &mut nodes);
    nodes
}

/// One line without what the three shells treat specially.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, '\n' | '\'' | '"' | '`' | '\\' | '$' | ':' | '[' | ']') { ' ' } else { c })
        .collect()
}

/// A shell function body that finds the command that was typed so far, with `|` between the paths.
fn alternatives(nodes: &[Node]) -> String {
    let quoted: Vec<String> = nodes.iter().skip(1).map(|node| format!("\"{}\"", node.path)).collect();
    quoted.join(" | ")
}

fn bash(nodes: &[Node]) -> String {
    let mut cases = String::new();
    for node in nodes {
        let words: Vec<&str> = node.words.iter().map(|(word, _)| word.as_str()).collect();
        let _ = writeln!(cases, "        \"{}\") words=\"{}\" ;;", node.path, words.join(" "));
    }
    format!(
        "# Completions of bib for bash.\n\
_bib() {{
    local current=\"${{COMP_WORDS[COMP_CWORD]}}\" path=bib words=\"\" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case \"$path ${{COMP_WORDS[i]}}\" in
            {}) path=\"$path ${{COMP_WORDS[i]}}\" ;;
        esac
    done
    case \"$path\" in
{cases}    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))
}}
complete -o default -F _bib bib\n",
        alternatives(nodes)
    )
}

fn zsh(nodes: &[Node]) -> String {
    let mut cases = String::new();
    for node in nodes {
        let words: Vec<String> = node.words.iter().map(|(word, about)| format!("'{word}:{about}'")).collect();
        let _ = writeln!(cases, "        \"{}\") candidates=({}) ;;", node.path, words.join(" "));
    }
    format!(
        "#compdef bib\n\
# Completions of bib for zsh.\n\
_bib() {{
    local at=bib i
    local -a candidates
    for ((i = 2; i < CURRENT; i++)); do
        case \"$at ${{words[i]}}\" in
            {}) at=\"$at ${{words[i]}}\" ;;
        esac
    done
    case \"$at\" in
{cases}    esac
    _describe 'bib' candidates || _files
}}
if [ \"$funcstack[1]\" = _bib ]; then _bib \"$@\"; else compdef _bib bib; fi\n",
        alternatives(nodes)
    )
}

fn fish(nodes: &[Node]) -> String {
    let mut script = format!(
        "# Completions of bib for fish.\n\
function __bib_at
    set -l at bib
    for word in (commandline -opc)[2..-1]
        switch \"$at $word\"
            case {}
                set at \"$at $word\"
        end
    end
    test \"$at\" = \"$argv[1]\"
end\n",
        alternatives(nodes).replace(" | ", " ")
    );
    for node in nodes {
        for (word, about) in &node.words {
            let word = match word.strip_prefix("--") {
                Some(flag) => format!("-l {flag}"),
                None => format!("-f -a {word}"),
            };
            let _ = writeln!(script, "complete -c bib -n \"__bib_at '{}'\" {word} -d '{about}'", node.path);
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn every_command_and_flag_is_completed_in_every_shell() {
        let nodes = nodes();
        assert!(nodes.iter().any(|node| node.path == "bib topic create"));
        for script in [bash(&nodes), zsh(&nodes), fish(&nodes)] {
            for node in &nodes {
                assert!(script.contains(&node.path), "{}", node.path);
            }
            assert!(script.contains("bump"));
        }
    }

    #[test]
    fn bash_accepts_the_script_and_completes_with_it() {
        let script = bash(&nodes()) + "COMP_WORDS=(bib -q topic cr); COMP_CWORD=3; _bib; echo \"${COMPREPLY[@]}\"";
        let output = Command::new("bash").arg("-c").arg(script).stdin(Stdio::null()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "create\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
