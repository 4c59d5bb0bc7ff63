//! How far a pull is: a bar for each layer and one for the whole on a terminal, plain lines elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::escape;
use super::image::size;
use super::output::talk;
use crate::image::Digest;
use crate::registry::Event;
use crate::rootfs::Progress;

/// Times in a second that bars are drawn.
const RATE: u8 = 10;

/// What is shown of one load. It costs nothing before there is something to show: the way of every start passes by here.
#[derive(Default)]
pub struct Display {
    shown: OnceLock<Option<Bars>>,
    begun: Mutex<BTreeMap<Digest, Instant>>,
    /// Published stores of which that was said.
    unusable: Mutex<BTreeSet<PathBuf>>,
    /// Whether layers that need no network are worth a line.
    pub layers: bool,
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    layers: Mutex<BTreeMap<Digest, ProgressBar>>,
}

impl Display {
    pub fn new(layers: bool) -> Arc<Self> {
        Arc::new(Self { layers, ..Self::default() })
    }

    /// Bars where stderr is a terminal that can move its cursor.
    fn bars(&self) -> Option<&Bars> {
        let make = || {
            let able = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
            able.then(Bars::new)
        };
        self.shown.get_or_init(make).as_ref()
    }

    /// A line of talk that bars do not disturb.
    pub fn line(&self, text: &str) {
        match self.shown.get() {
            Some(Some(bars)) => bars.all.suspend(|| talk(text)),
            _ => talk(text),
        }
    }

    /// What the load tells.
    pub fn load(&self, progress: &Progress<'_>) {
        match progress {
            Progress::Begin { layers, bytes } => match self.bars() {
                Some(bars) => bars.total.set_length(*bytes),
                None => talk(&format!("fetching {layers} layers, {}", size(*bytes))),
            },
            Progress::Layer { name, facts } if self.layers => {
                self.line(&format!("{}: {} entries, {}", escape(name), facts.entries, size(facts.bytes)));
            }
            Progress::Layer { .. } => {}
            Progress::Unusable { store, error } => {
                if self.unusable.lock().unwrap_or_else(PoisonError::into_inner).insert(store.to_path_buf()) {
                    self.line(&format!("hamper: ignoring the store {}: {}", escape(&store.to_string_lossy()), escape(&error.chain())));
                }
            }
            Progress::End => self.clear(),
        }
    }

    /// What the client of registries tells.
    pub fn registry(&self, event: &Event) {
        match event {
            Event::Begin { digest, size } => {
                if let Some(bars) = self.bars() {
                    bars.begin(digest, *size);
                } else {
                    self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), Instant::now());
                }
            }
            Event::Bytes { digest, at } => {
                if let Some(Some(bars)) = self.shown.get() {
                    bars.bytes(digest, *at);
                }
            }
            Event::End { digest, size: bytes } => match self.shown.get() {
                Some(Some(bars)) => bars.end(digest),
                _ => {
                    let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
                    let took = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
                    talk(&format!("fetched {}: {} in {took:.1} s", short(digest), size(*bytes)));
                }
            },
            Event::Present { digest } => self.line(&format!("{}: is there already", short(digest))),
            Event::Mounted { digest, from } => self.line(&format!("{}: taken from {}", short(digest), escape(from))),
            Event::Sent { digest, size: bytes } => {
                if let Some(Some(bars)) = self.shown.get() {
                    bars.end(digest);
                }
                self.line(&format!("{}: sent, {}", short(digest), size(*bytes)));
            }
            Event::Again { words, wait } => self.line(&format!("hamper: {}; again in {:.1} s", escape(words), wait.as_secs_f64())),
            Event::Ignoring { words } => self.line(&format!("hamper: ignoring: {}", escape(words))),
        }
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.clear();
    }

    fn clear(&self) {
        if let Some(Some(bars)) = self.shown.get() {
            bars.total.finish_and_clear();
            // Ignoring: a terminal that is gone shows nothing.
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        let total = all.add(bar("total", "{prefix:12} [{bar:30}] {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12}, {eta} left"));
        Self { all, total, layers: Mutex::default() }
    }

    fn begin(&self, digest: &Digest, size: u64) {
        let one = bar(&short(digest), "{prefix:12} [{bar:30}] {bytes:>10} of {total_bytes:10}");
        one.set_length(size);
        let one = self.all.insert_before(&self.total, one);
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), one);
    }

    fn bytes(&self, digest: &Digest, at: u64) {
        if let Some(one) = self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            self.total.inc(at.saturating_sub(one.position()));
            one.set_position(at);
        }
    }

    fn end(&self, digest: &Digest) {
        if let Some(one) = self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(digest) {
            one.finish_and_clear();
        }
    }
}

fn bar(name: &str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_prefix(name.to_owned())
}

fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}
