//! Network none: a loopback device, and nothing else. The control is network host.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::support::{TestEnv, landlock_abi, maps, unique};

#[test]
fn there_is_only_a_loopback() {
    let env = TestEnv::new();
    for map in maps() {
        for image in ["busybox", "host"] {
            let out =
                env.run(image).map(map).probe("interfaces -- cat /proc/net/route /proc/net/ipv6_route -- bind 80 -- bind 8080").code(0);
            assert_eq!(out.stdout.lines().filter(|line| line.starts_with("interface ")).collect::<Vec<_>>(), ["interface lo"]);
            // Routes: a headline of IPv4, and of IPv6 nothing that leads through another device.
            let routes: Vec<&str> =
                out.stdout.lines().filter(|line| line.split_whitespace().count() >= 8 && !line.starts_with("Iface")).collect();
            assert!(routes.iter().all(|route| route.trim_end().ends_with("lo")), "{routes:?}");
            assert_eq!(out.answers("bind"), [("port".into(), "ok".into()), ("port".into(), "ok".into())], "low ports need no capability");
        }
    }
}

#[test]
fn a_server_of_the_host_is_out_of_reach() {
    let env = TestEnv::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = server.local_addr().expect("address").port();
    for map in maps() {
        let out = env
            .run("busybox")
            .map(map)
            .probe(&format!("connect 127.0.0.1 {port} -- connect 10.255.255.1 {port} -- connect 192.0.2.1 80"))
            .code(0);
        let results = out.answers("connect");
        assert_eq!(results[0].1, "ECONNREFUSED");
        assert!(results[1..].iter().all(|(_, result)| result == "ENETUNREACH"), "{results:?}");
        let out = env.run("busybox").map(map).args(["--network", "host"]).probe(&format!("connect 127.0.0.1 {port}")).code(0);
        assert_eq!(out.value("connect 127.0.0.1:"), "ok", "the control");
    }
}

#[test]
fn landlock_is_there_and_abstract_sockets_of_the_host_are_out_of_reach() {
    let env = TestEnv::new();
    let name = format!("hamper-test-{}", unique());
    let address = SocketAddr::from_abstract_name(&name).expect("name");
    let _server = UnixListener::bind_addr(&address).expect("bind");
    for map in maps() {
        let out = env.run("busybox").map(map).probe(&format!("unix @{name}")).code(0);
        assert_eq!(out.value(&format!("unix @{name}:")), "ECONNREFUSED");
        let control =
            env.run("busybox").map(map).args(["--network", "host"]).set("security.landlock=off").probe(&format!("unix @{name}")).code(0);
        assert_eq!(control.value(&format!("unix @{name}:")), "ok", "the control");
        // Landlock's scope shuts them even where the network is the host's, or the report says that it cannot.
        let report = env.root().join("report.json").display().to_string();
        let host = || env.run("busybox").map(map).args(["--network", "host", "--report", &report]);
        let out = host().probe(&format!("unix @{name}")).code(0);
        let scoped = landlock_abi() >= 6;
        assert_eq!(out.value(&format!("unix @{name}:")), if scoped { "EPERM" } else { "ok" });
        let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&report).expect("report")).expect("JSON");
        let told = report["degraded"].as_array().expect("a list").iter().any(|one| {
            one["what"] == "landlock"
                && one["asked"] == "no abstract sockets of the host"
                && one["got"].to_string().contains("does not scope")
        });
        assert_eq!(told, !scoped, "{report}");
        for required in ["require=[\"landlock\"]", "security.landlock=required"] {
            let out = host().set(required).probe("exit 3");
            if scoped {
                out.code(3);
            } else {
                out.code(125).told(&[
                    "landlock is required, but this kernel has Landlock ABI",
                    "does not scope abstract sockets",
                    "hint: hamper doctor",
                ]);
            }
        }
    }
}

#[test]
fn sockets_on_the_hosts_disk_are_reached_through_mounts_only() {
    let env = TestEnv::new();
    let directory = env.directory("sockets");
    let path = directory.join("s");
    let _server = UnixListener::bind(&path).expect("bind");
    let attempt = format!("unix {}", path.display());
    let out = env.run("busybox").probe(&attempt).code(0);
    assert_eq!(out.value(&format!("unix {}:", path.display())), "ENOENT");
    let volume = format!("{}:{}", directory.display(), directory.display());
    let out = env.run("busybox").args(["-v", &volume]).probe(&attempt).code(0);
    assert_eq!(out.value(&format!("unix {}:", path.display())), "ok", "the control");
}

#[test]
fn families_that_reach_past_a_network_namespace_are_refused() {
    let env = TestEnv::new();
    let families = "unix inet inet6 udp netlink-route vsock alg packet netlink-netfilter netlink-uevent netlink-audit netlink-crypto key tipc can xdp rds qrtr bluetooth";
    for map in maps() {
        let out = env.run("busybox").map(map).probe(&format!("family {families}")).code(0);
        for (family, result) in out.answers("family") {
            let allowed = ["unix", "inet", "inet6", "udp", "netlink-route"].contains(&family.as_str());
            assert_eq!(result == "ok", allowed, "{map} {family}: {result}");
        }
        // The control: without the filter the kernel has more to give.
        let out = env.run("busybox").map(map).set("security.seccomp=none").probe(&format!("family {families}")).code(0);
        let reached: Vec<String> =
            out.answers("family").into_iter().filter(|(_, result)| result == "ok").map(|(family, _)| family).collect();
        assert!(reached.iter().any(|family| family.starts_with("netlink-") && family != "netlink-route"), "{reached:?}");
    }
}

#[test]
fn the_hosts_resolver_is_there_with_the_hosts_network_only() {
    let env = TestEnv::new();
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let out = env.run("busybox").args(["--network", "host"]).probe("cat /etc/resolv.conf").code(0);
    assert_eq!(out.stdout.trim_end(), host.trim_end());
    let out = env.run("busybox").probe("cat /etc/resolv.conf").code(0);
    assert!(!out.stdout.contains("nameserver"), "{}", out.stdout);
}

#[test]
fn names_of_the_profile_are_in_hosts() {
    let env = TestEnv::new();
    let out = env.run("busybox").set("network.hosts={ \"db.local\" = \"10.1.2.3\" }").probe("cat /etc/hosts").any();
    assert!(out.stdout.contains("10.1.2.3\tdb.local"), "{} {}", out.stdout, out.stderr);
}
