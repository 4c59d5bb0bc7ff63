//! The only room with unsafe code: the few system calls that nix and rustix lack. Imports nothing of ours.
#![allow(unsafe_code)]

mod alloc;
mod cleanup;
mod clone;
mod confine;
mod entry;
mod exec;
mod fork;
mod idmap;
mod memory;
mod net;
mod notify;
mod tty;

pub use alloc::Bump;
pub use cleanup::{Cleanup, cleanup_has_ended, own_pid, spawn_cleanup};
pub use clone::{
    Clone3, Forked, HeldSignals, Taken, await_signal, block_signals, clone3, exit_now, keep_only, keep_open, kill_all, payload_stack,
    release, replace_descriptor, reset_signals, single_threaded, spawn_sharing_memory,
};
pub use confine::{
    MountAttr, close_all_but, close_from, drop_bounding, ids_at_start, install_filter, is_real_time, join_session_keyring, landlock_abi,
    landlock_add_path, landlock_restrict_self, mount_setattr, secure_mode,
};
pub use entry::{Arguments, arguments};
pub use exec::{CStrArray, execve};
pub use fork::fork;
pub use idmap::{Extent, IdMapError, MAP_PROGRAMS, format_map, write_maps_with_programs};
pub use memory::{await_signal_idle, forget, forget_allocations, forget_stack, poll_idle};
pub use net::loopback_up;
pub use notify::{Asked, answer_call, hear_call, install_filter_that_asks, still_waits};
