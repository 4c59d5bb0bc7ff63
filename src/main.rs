//! The program: hands the command line to [`hamper::cli`].
#![no_main]

#[global_allocator]
static MEMORY: hamper::sys::Bump = hamper::sys::Bump::new();

hamper::entry!(hamper::cli::main);
