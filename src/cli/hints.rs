//! What to write instead, where somebody wrote what another tool takes.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// For a command line that clap refuses.
pub fn of_usage(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let hint = match word.as_str() {
        "-t" | "-i" | "-it" | "-ti" | "--tty" | "--interactive" => "a terminal is chosen by itself: leave it out",
        "--rm" => "a sandbox is always removed: leave it out",
        "-d" | "--detach" => "detached sandboxes come later; until then: hamper run … &",
        "-p" | "--publish" => "published ports come later; until then: --network host",
        word if word.starts_with('-') => return None,
        word if given("--") => return Some(format!("one PROFILE only, and the command behind `--`: `{word}` is neither")),
        word => return Some(format!("a command stands behind `--`: {}", with_separator(arguments, word)?)),
    };
    Some(hint.to_owned())
}

/// The line with `--` before the command; the word before `extra` belongs to it where an image was named.
fn with_separator(arguments: &[OsString], extra: &str) -> Option<String> {
    let words: Vec<String> = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let at = words.iter().position(|word| word == extra)?;
    let image = words.iter().any(|word| word == "--image" || word.starts_with("--image="));
    let start = if image { at.checked_sub(1)? } else { at };
    Some(format!("hamper {} -- {}", words[..start].join(" "), words[start..].join(" ")))
}

/// For a PROFILE that is none.
pub fn of_profile(profile: &str, image: Option<&str>) -> Option<String> {
    if let Some(image) = image {
        return Some(format!("a command stands behind `--`: hamper run --image {image} -- {profile}"));
    }
    let path = std::path::Path::new(profile);
    if path.is_dir() {
        let file = path.join("hamper.toml");
        let shown =
            if file.is_absolute() || profile.starts_with('.') { file.display().to_string() } else { format!("./{}", file.display()) };
        return Some(format!("hamper run {shown}"));
    }
    (profile.contains(':') && !path.exists()).then(|| format!("an image is named by an option: hamper run --image {profile}"))
}
