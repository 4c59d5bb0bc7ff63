//! `${NAME}` and `${NAME:-otherwise}`: the only thing that a profile's text can ask of the caller.
//!
//! `$${` is a literal `${`. Every other `$` stands for itself, so that `$HOME` in a shell command is the shell's.

use std::borrow::Cow;

use super::value::{Parsed, Wrong};

/// Longest result; the kernel takes no longer argument or variable.
const LONGEST: usize = 128 << 10;

/// What is known of a name.
pub enum Lookup {
    Value(String),
    Unset,
    /// Not one of the names that a profile may ask for.
    Forbidden,
    /// `${project}` where the project is not known yet.
    TooEarly,
}

/// Replaces what stands in `${…}`; the error carries the name, so that its place can be shown.
pub fn expand<'t>(text: &'t str, lookup: &dyn Fn(&str) -> Lookup) -> Result<Cow<'t, str>, (String, Wrong)> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let (mut rest, mut result) = (text, String::with_capacity(text.len() + 64));
    while let Some(at) = rest.find("${") {
        result.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        if result.ends_with('$') {
            result.push('{');
            rest = inner;
            continue;
        }
        let Some(end) = inner.find('}') else {
            return Err((String::new(), Wrong::new("has `${` without `}`").hint("a literal `${` is written `$${`")));
        };
        result.push_str(&substitute(&inner[..end], lookup).map_err(|wrong| (inner[..end].to_owned(), wrong))?);
        rest = &inner[end + 1..];
        if result.len() > LONGEST {
            return Err((String::new(), Wrong::new("is longer than 128 KiB when its variables are replaced")));
        }
    }
    result.push_str(rest);
    Ok(Cow::Owned(result))
}

fn substitute(inner: &str, lookup: &dyn Fn(&str) -> Lookup) -> Parsed<String> {
    let (name, otherwise) = inner.split_once(":-").map_or((inner, None), |(name, otherwise)| (name, Some(otherwise)));
    let shown = super::finding::escape(name);
    if super::value::variable(name).is_err() || name.contains(['.', '-']) {
        let wrong = Wrong::new(format!("has `${{{shown}}}`, which names no variable"));
        return Err(wrong.hint("only `${NAME}` and `${NAME:-otherwise}` are known; a literal `${` is written `$${`"));
    }
    if otherwise.is_some_and(|otherwise| otherwise.contains("${")) {
        return Err(Wrong::new(format!("has a variable within `${{{shown}:-…}}`")).hint("what follows `:-` is taken as it is"));
    }
    match (lookup(name), otherwise) {
        // As in a shell, `:-` also replaces what is set but empty.
        (Lookup::Value(value), Some(otherwise)) if value.is_empty() => Ok(otherwise.to_owned()),
        (Lookup::Value(value), _) => Ok(value),
        (Lookup::Unset, Some(otherwise)) => Ok(otherwise.to_owned()),
        (Lookup::Unset, None) => Err(Wrong::new(format!("has `${{{shown}}}`, which is not set"))
            .hint(format!("`${{{shown}:-otherwise}}` gives it a value when unset"))),
        (Lookup::Forbidden, _) => {
            let wrong = Wrong::new(format!("has `${{{shown}}}`, which is not in `env_pass`"));
            Err(wrong.hint(format!("add \"{shown}\" to `env_pass`; a literal `${{` is written `$${{`")))
        }
        (Lookup::TooEarly, _) => Err(Wrong::new("has `${project}` where the project is not known yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "HOME" => Lookup::Value("/home/u".into()),
            "EMPTY" => Lookup::Value(String::new()),
            "TRICK" => Lookup::Value("${HOME}".into()),
            "UNSET" => Lookup::Unset,
            _ => Lookup::Forbidden,
        };
        expand(text, &lookup).map(Cow::into_owned).map_err(|(_, wrong)| wrong.message)
    }

    #[test]
    fn expansions() {
        for (text, expected) in [
            ("a", "a"),
            ("${HOME}/x", "/home/u/x"),
            ("${HOME}${HOME}", "/home/u/home/u"),
            ("${UNSET:-x y}", "x y"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("$HOME $$ $", "$HOME $$ $"),
            ("$${HOME}", "${HOME}"),
            ("a$${x}b${HOME}", "a${x}b/home/u"),
            ("${TRICK}", "${HOME}"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "${",
            "${}",
            "${HOME",
            "${UNSET}",
            "${OTHER}",
            "${OTHER:-x}",
            "${HOME:?x}",
            "${a b}",
            "${HOME/u/x}",
            "${LD.X}",
            "${HOME:-${HOME}}",
        ] {
            assert!(run(text).is_err(), "{text}");
        }
    }
}
