//! Has the linker put the functions of a start side by side; src/order.ld says why.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/order.ld");
    println!("cargo::rerun-if-env-changed=HAMPER_UNORDERED");
    // What is built to be debugged is not in a hurry, and a linker that takes no script of this kind is told not to be given one.
    let hurried = var("PROFILE").is_ok_and(|profile| profile == "release");
    if hurried && var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") && var("HAMPER_UNORDERED").is_err() {
        let place = var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bin=hamper=-Wl,-T,{place}/src/order.ld");
    }
}
