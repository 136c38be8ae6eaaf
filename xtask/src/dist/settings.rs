//! The file of settings that is installed: the built-in values with what they mean, none of them set.
//!
//! Each line has the whole name of its setting, so that it says the same wherever it stands and tables can be added
//! below.

use std::fmt::Write;

/// What stands above the settings.
const HEAD: &str = "\
# Settings of bibd on this machine. None is set here: what is built in is shown. To change one, remove the # before it, and
# run `systemctl reload bibd`, or `systemctl restart bibd` for what is marked (restart). `bib config show --daemon --origin`
# shows what is in force.
#
";

/// The file, from the built-in settings.
pub fn documented(defaults: &str) -> String {
    let mut file = HEAD.to_owned();
    let mut table = String::new();
    for line in defaults.lines() {
        let _ = match (line.strip_prefix('['), line.split_once(" = ")) {
            (Some(rest), _) => {
                table = rest.trim_end_matches(']').to_owned();
                Ok(())
            }
            (None, Some((key, value))) if !line.starts_with('#') => writeln!(file, "#{table}.{key} = {value}"),
            _ => writeln!(file, "{line}"),
        };
    }
    file
}

/// The same with every value set, to try whether it is understood.
pub fn with_all_set(documented: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    documented.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::root;

    #[test]
    fn every_setting_is_there_and_none_is_set() {
        let defaults = std::fs::read_to_string(root().join("node/src/config/default.toml")).unwrap();
        let file = documented(&defaults);
        assert!(file.lines().all(|line| line.is_empty() || line.starts_with('#')), "{file}");
        let is_value = |line: &&str| !line.starts_with('#') && line.contains(" = ");
        let n_values = defaults.lines().filter(is_value).count();
        let set = with_all_set(&file);
        assert_eq!(set.lines().filter(is_value).count(), n_values);
        assert!(n_values > 20 && set.contains("\nlimits.memory = \"128MiB\"\n"), "{set}");
    }
}
