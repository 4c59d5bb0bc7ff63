//! What of procfs and the sysctls the payload sees.

/// Covered: they tell about the machine or the kernel, and no program in a sandbox needs them. The list is Docker's and podman's.
pub const MASKED: [&str; 9] = ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "scsi", "timer_list", "sysrq-trigger"];

/// Those of [`MASKED`] that are directories wherever they are.
pub const MASKED_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];

/// Readable, never writable: settings of the kernel and its devices.
pub const READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

/// Sysctls of an own network namespace: low ports and ping need no capability inside.
pub fn network_sysctls(gid: u32) -> Vec<(String, String)> {
    vec![("net/ipv4/ip_unprivileged_port_start".into(), "0".into()), ("net/ipv4/ping_group_range".into(), format!("{gid} {gid}"))]
}
