//! Manual pages in the macros of man(7).

use std::fmt::Write;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};

use crate::Program;

/// A part of a page that no declaration says: its name, and terms with what each means.
pub type Section<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// The page of a program with all its commands. The date is empty: whoever files the page knows it.
pub fn page(program: &Program<'_>, section: u8, more: &[Section<'_>]) -> String {
    let Program { name, version, about, .. } = program;
    let mut page = head(name, section, name, version);
    let _ = writeln!(page, ".SH NAME\n{} \\- {}", text(name), text(about));
    page.push_str(".SH SYNOPSIS\n");
    synopsis(&mut page, name, &program.info);
    page.push_str(".SH DESCRIPTION\n");
    paragraphs(&mut page, &[program.info.description]);
    notes(&mut page, name, &program.info);
    arguments(&mut page, &program.info);
    if !program.info.commands.is_empty() {
        page.push_str(".SH COMMANDS\n");
        commands(&mut page, name, &program.info);
    }
    if !program.globals.is_empty() {
        page.push_str(".SH GLOBAL OPTIONS\nThey may stand anywhere on the line.\n");
        for flag in program.globals {
            term(&mut page, &flag_term(flag.long, flag.short, flag.value), flag.help);
        }
    }
    for (title, terms) in more {
        let _ = writeln!(page, ".SH {}", text(title));
        for (name, about) in *terms {
            term(&mut page, &format!("\\fB{}\\fR", text(name)), about);
        }
    }
    if !program.info.examples.is_empty() {
        page.push_str(".SH EXAMPLES\n");
        examples(&mut page, name, &program.info);
    }
    page
}

/// The page of a file of settings: its built-in values with what is said above each.
pub fn settings_page(name: &str, about: &str, version: &str, toml: &str, more: &[Section<'_>]) -> String {
    let mut page = head(name, 5, "bib", version);
    let _ = writeln!(page, ".SH NAME\n{} \\- {}\n.SH DESCRIPTION", text(name), text(about));
    let mut said: Vec<&str> = Vec::new();
    let mut table = "";
    for line in toml.lines().chain([""]) {
        if let Some(comment) = line.strip_prefix('#') {
            said.push(comment.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
            let _ = writeln!(page, ".SH [{}]", text(table));
        } else if let Some((key, value)) = line.split_once(" = ") {
            let term_ = format!("\\fB{}.{}\\fR = {}", text(table), text(key), text(value));
            term(&mut page, &term_, &said.join(" "));
            said.clear();
        } else if !said.is_empty() {
            paragraphs(&mut page, &[&said.join(" ")]);
            said.clear();
        }
    }
    for (title, terms) in more {
        let _ = writeln!(page, ".SH {}", text(title));
        for (name, about) in *terms {
            term(&mut page, &format!("\\fB{}\\fR", text(name)), about);
        }
    }
    page
}

fn head(name: &str, section: u8, source: &str, version: &str) -> String {
    format!(".TH \"{}\" \"{section}\" \"\" \"{source} {version}\" \"bib\"\n.nh\n.ad l\n", name.to_uppercase())
}

/// All commands below one, each with its own heading.
fn commands(page: &mut String, path: &str, info: &CommandInfoWithArgs) {
    for sub in &info.commands {
        let path = format!("{path} {}", sub.name);
        let _ = writeln!(page, ".SS {}", text(&path));
        synopsis(page, &path, &sub.command);
        page.push_str(".PP\n");
        let description = sub.command.description.trim();
        let mut chars = description.chars();
        let sentence = chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect());
        let end = if sentence.ends_with('.') { "" } else { "." };
        paragraphs(page, &[&format!("{sentence}{end}")]);
        notes(page, &path, &sub.command);
        arguments(page, &sub.command);
        examples(page, &path, &sub.command);
        commands(page, &path, &sub.command);
    }
}

fn synopsis(page: &mut String, path: &str, info: &CommandInfoWithArgs) {
    let mut line = format!("\\fB{}\\fR", text(path));
    for flag in info.flags.iter().filter(|flag| is_shown(flag)) {
        let term = flag_term(flag.long, None, value_of(flag));
        let _ = match flag.optionality {
            Optionality::Required => write!(line, " {term}"),
            Optionality::Optional => write!(line, " [{term}]"),
            Optionality::Repeating | Optionality::Greedy => write!(line, " [{term}]..."),
        };
    }
    for positional in info.positionals.iter().filter(|positional| !positional.hidden) {
        line.push_str(&positional_term(positional));
    }
    if !info.commands.is_empty() {
        line.push_str(" \\fIcommand\\fR ...");
    }
    let _ = writeln!(page, "{line}");
}

fn positional_term(positional: &PositionalInfo) -> String {
    let name = text(positional.name);
    match positional.optionality {
        Optionality::Required => format!(" \\fI{name}\\fR"),
        Optionality::Optional => format!(" [\\fI{name}\\fR]"),
        Optionality::Repeating | Optionality::Greedy => format!(" [\\fI{name}\\fR]..."),
    }
}

fn arguments(page: &mut String, info: &CommandInfoWithArgs) {
    for positional in info.positionals.iter().filter(|positional| !positional.hidden) {
        term(page, &format!("\\fI{}\\fR", text(positional.name)), positional.description);
    }
    for flag in info.flags.iter().filter(|flag| is_shown(flag)) {
        term(page, &flag_term(flag.long, flag.short, value_of(flag)), flag.description);
    }
}

/// All but `--help`, which every command has.
fn is_shown(flag: &FlagInfo) -> bool {
    !flag.hidden && flag.long != "--help"
}

fn value_of<'a>(flag: &FlagInfo<'a>) -> Option<&'a str> {
    match flag.kind {
        FlagInfoKind::Option { arg_name } => Some(arg_name),
        FlagInfoKind::Switch => None,
    }
}

fn flag_term(long: &str, short: Option<char>, value: Option<&str>) -> String {
    let short = short.map_or_else(String::new, |short| format!("\\fB\\-{short}\\fR, "));
    let value = value.map_or_else(String::new, |value| format!(" \\fI{}\\fR", text(value)));
    format!("{short}\\fB{}\\fR{value}", text(long))
}

fn term(page: &mut String, term: &str, about: &str) {
    let _ = writeln!(page, ".TP\n{term}");
    paragraphs(page, &[about]);
}

fn notes(page: &mut String, path: &str, info: &CommandInfoWithArgs) {
    for note in info.notes {
        page.push_str(".PP\n");
        paragraphs(page, &[&note.replace("{command_name}", path)]);
    }
}

fn examples(page: &mut String, path: &str, info: &CommandInfoWithArgs) {
    for example in info.examples {
        // A heading is a paragraph of its own.
        let begin = if page.lines().last().is_some_and(|line| line.starts_with(".SH")) { "" } else { ".PP\n" };
        let _ = write!(page, "{begin}.RS 4\n.nf\n");
        paragraphs(page, &[&example.replace("{command_name}", path)]);
        page.push_str(".fi\n.RE\n");
    }
}

/// Lines of prose, with bold for what stands between backticks.
fn paragraphs(page: &mut String, lines: &[&str]) {
    for line in lines.iter().flat_map(|lines| lines.lines()).map(str::trim).filter(|line| !line.is_empty()) {
        let mut bold = false;
        let mut shown = String::new();
        for (n, part) in line.split('`').enumerate() {
            if n > 0 {
                bold = !bold;
                shown.push_str(if bold { "\\fB" } else { "\\fR" });
            }
            shown.push_str(&text(part));
        }
        let guard = if shown.starts_with(['.', '\'']) { "\\&" } else { "" };
        let end = if bold { "\\fR" } else { "" };
        let _ = writeln!(page, "{guard}{shown}{end}");
    }
}

/// Text in which nothing is a request of troff. Hyphens stay what can be typed.
fn text(plain: &str) -> String {
    let mut escaped = String::new();
    for c in plain.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_page_names_every_command_and_flag_and_escapes_what_troff_would_take() {
        let page = page(&example::program(), 1, &[("FILES", &[("~/.tidy", "what is kept")])]);
        for part in [
            ".TH \"TIDY\" \"1\" \"\" \"tidy 1.2.3\" \"bib\"\n",
            "tidy \\- keeps shelves\n",
            ".SS tidy shelf add\n",
            "\\fBtidy shelf add\\fR [\\fB\\-\\-message\\fR \\fItext\\fR] \\fB\\-\\-shelf\\fR \\fInumber\\fR [\\fIbook\\fR]...\n",
            "Put books on \\fBit\\fR.\n",
            "\n\\&.first of a line, and a \\e in \\fBit\\fR\n",
            "\\fB\\-w\\fR, \\fB\\-\\-wait\\fR \\fItime\\fR\n",
            ".TP\n\\fB\\(ti/.tidy\\fR\nwhat is kept\n",
            "tidy shelf add \\-m \"it\\(aqs new\"\n",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
    }

    #[test]
    fn settings_are_documented_with_what_stands_above_them() {
        let toml = "# All of it.\n# Layers.\n\n[log]\n# How\n# much.\nlevel = \"info\"\n";
        let page = settings_page("x.toml", "settings of x", "1", toml, &[("SEE ALSO", &[("x(8)", "")])]);
        assert!(page.contains(".SH DESCRIPTION\nAll of it. Layers.\n.SH [log]\n"), "{page}");
        assert!(page.contains(".TP\n\\fBlog.level\\fR = \"info\"\nHow much.\n"), "{page}");
        assert!(page.contains(".SH SEE ALSO\n.TP\n\\fBx(8)\\fR\n"), "{page}");
    }
}
