//! The integration tests: they drive the binary, as an ordinary user, on real images.
//!
//! `tests/run` makes everything ready and starts them; `cargo test --test it` works too, for an ordinary user who has built the test
//! images. What a machine cannot do makes a test skip, with its reason, and fail where `HAMPER_TESTS_MUST_RUN=1`.

mod support;

mod architecture;
mod build;
mod doctor;
mod evil;
mod failures;
mod guarantees;
mod hosts;
mod image;
mod limits;
mod node;
mod nosub;
mod peers;
mod plan;
mod profile;
mod registry;
mod run;
mod shell;
mod signals;
mod tty;
