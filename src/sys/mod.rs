//! The only room with unsafe code: the few system calls that nix and rustix lack. Imports nothing of ours.
#![allow(unsafe_code)]
