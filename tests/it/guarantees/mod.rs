//! Each promise is broken from inside, and refused, beside a control in which the same attempt succeeds: a refusal that nobody could
//! have passed proves nothing.

mod capabilities;
mod cleanup;
mod environment;
mod filesystem;
mod identity;
mod landlock_rung;
mod later_runs;
mod left_behind;
mod network;
mod processes;
mod syscalls;
