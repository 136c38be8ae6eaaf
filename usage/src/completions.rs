//! Scripts that complete commands and flags in shells.

use std::fmt::Write;

use argh::{CommandInfoWithArgs, FlagInfoKind};

use crate::{Program, Shell};

/// A script that completes the lines of a program.
pub fn completions(program: &Program<'_>, shell: Shell) -> String {
    let nodes = nodes(program);
    match shell {
        Shell::Bash => bash(program.name, &nodes),
        Shell::Zsh => zsh(program.name, &nodes),
        Shell::Fish => fish(program.name, &nodes),
    }
}

/// A command with what may follow it.
struct Node {
    /// `bib key new`.
    path: String,
    /// Sub-commands and flags, each with what it is for.
    words: Vec<(String, String)>,
}

fn nodes(program: &Program<'_>) -> Vec<Node> {
    fn visit(path: String, info: &CommandInfoWithArgs, program: &Program<'_>, nodes: &mut Vec<Node>) {
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
        words.extend(program.globals.iter().map(|flag| (flag.long.to_owned(), flag.help.to_owned())));
        nodes.push(Node { path: path.clone(), words });
        for sub in &info.commands {
            visit(format!("{path} {}", sub.name), &sub.command, program, nodes);
        }
    }
    let mut nodes = Vec::new();
    visit(program.name.to_owned(), &program.info, program, &mut nodes);
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

fn bash(name: &str, nodes: &[Node]) -> String {
    let mut cases = String::new();
    for node in nodes {
        let words: Vec<&str> = node.words.iter().map(|(word, _)| word.as_str()).collect();
        let _ = writeln!(cases, "        \"{}\") words=\"{}\" ;;", node.path, words.join(" "));
    }
    format!(
        "# Completions of {name} for bash.\n\
_{name}() {{
    local current=\"${{COMP_WORDS[COMP_CWORD]}}\" path={name} words=\"\" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case \"$path ${{COMP_WORDS[i]}}\" in
            {}) path=\"$path ${{COMP_WORDS[i]}}\" ;;
        esac
    done
    case \"$path\" in
{cases}    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))
}}
complete -o default -F _{name} {name}\n",
        alternatives(nodes)
    )
}

fn zsh(name: &str, nodes: &[Node]) -> String {
    let mut cases = String::new();
    for node in nodes {
        let words: Vec<String> = node.words.iter().map(|(word, about)| format!("'{word}:{about}'")).collect();
        let _ = writeln!(cases, "        \"{}\") candidates=({}) ;;", node.path, words.join(" "));
    }
    format!(
        "#compdef {name}\n\
# Completions of {name} for zsh.\n\
_{name}() {{
    local at={name} i
    local -a candidates
    for ((i = 2; i < CURRENT; i++)); do
        case \"$at ${{words[i]}}\" in
            {}) at=\"$at ${{words[i]}}\" ;;
        esac
    done
    case \"$at\" in
{cases}    esac
    _describe '{name}' candidates || _files
}}
if [ \"$funcstack[1]\" = _{name} ]; then _{name} \"$@\"; else compdef _{name} {name}; fi\n",
        alternatives(nodes)
    )
}

fn fish(name: &str, nodes: &[Node]) -> String {
    let mut script = format!(
        "# Completions of {name} for fish.\n\
function __{name}_at
    set -l at {name}
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
            let _ = writeln!(script, "complete -c {name} -n \"__{name}_at '{}'\" {word} -d '{about}'", node.path);
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use std::process::{Command, Stdio};

    #[test]
    fn every_command_and_flag_is_completed_in_every_shell() {
        let program = example::program();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(&program, shell);
            for part in ["tidy shelf add", "message", "shelf", "wait"] {
                assert!(script.contains(part), "{shell:?}: {part}");
            }
        }
    }

    #[test]
    fn bash_accepts_the_script_and_completes_with_it() {
        let script = completions(&example::program(), Shell::Bash)
            + "COMP_WORDS=(tidy -w shelf a); COMP_CWORD=3; _tidy; echo \"${COMPREPLY[@]}\"";
        let output = Command::new("bash").arg("-c").arg(script).stdin(Stdio::null()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "add\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
