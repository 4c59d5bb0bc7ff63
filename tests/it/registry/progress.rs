//! What a pull shows: bars on a terminal, lines elsewhere.

use std::time::Duration;

use super::faulty::{Faulty, Reply, content, largest, right};
use crate::support::TestEnv;
use crate::support::pty::Pty;

/// Slow enough to be seen.
fn slow() -> Faulty {
    let whole = content("busybox");
    let (path, _) = largest(&whole);
    let again = whole.clone();
    Faulty::serve_content(whole, move |asked, before| {
        (asked.path == path && before == 0).then(|| Reply {
            cut: Some(300_000),
            drip: Some(Duration::from_micros(20)),
            ..right(asked, &again)
        })
    })
}

#[test]
fn bars_on_a_terminal() {
    let env = TestEnv::alone();
    let registry = slow();
    let line = env.hamper(["image", "--map", "single", "pull", &registry.reference()]).words();
    let shown = Pty::new().run(&line, &env);
    for part in ["total", "[===", " of ", "left", "again in", "281 entries"] {
        assert!(shown.contains(part), "no {part:?} in {shown:?}");
    }
    // The last line is data, and no bar stays behind it.
    let last = shown.rsplit("\x1b[2K").next().unwrap_or_default();
    assert!(last.contains("sha256:") && !last.contains("total"), "{shown:?}");
}

#[test]
fn lines_without_one() {
    let env = TestEnv::alone();
    let registry = slow();
    let seen = env.hamper(["image", "--map", "single", "pull", &registry.reference()]).output().code(0);
    assert!(!seen.stderr.contains(['\x1b', '\r']), "{:?}", seen.stderr);
    let seen = seen.told(&["fetching 1 layers", "fetched ", " MiB in ", "again in"]);
    assert_eq!(seen.stdout.lines().count(), 1);
    // A start says what takes it so long, and only then.
    let env = TestEnv::alone();
    env.run(&registry.reference()).payload(["true"]).output().code(0).told(&["fetching 1 layers", "fetched "]);
    env.run(&registry.reference()).payload(["true"]).output().code(0).silent();
}
