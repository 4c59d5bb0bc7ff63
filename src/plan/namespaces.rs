//! Namespaces and id maps.

use super::{IdMap, MapWriter, Namespace};
use crate::host::{Host, SubRange};
use crate::profile::NetworkMode;

/// Every namespace there is, but the network's where the host's network is asked for.
pub fn namespaces(network: NetworkMode) -> Vec<Namespace> {
    let mut namespaces = vec![Namespace::User, Namespace::Mount, Namespace::Pid, Namespace::Ipc, Namespace::Uts, Namespace::Cgroup];
    if network != NetworkMode::Host {
        namespaces.push(Namespace::Net);
    }
    namespaces
}

/// Both maps and who can write them.
pub struct Maps {
    pub uid: Vec<IdMap>,
    pub gid: Vec<IdMap>,
    pub writer: MapWriter,
}

/// The payload's user is the caller; every other id comes from the subordinate ranges, or does not exist.
pub fn maps(host: &Host, uid: u32, gid: u32, ranges: Option<(SubRange, SubRange)>) -> Maps {
    match ranges {
        None => Maps { uid: single(uid, host.uid), gid: single(gid, host.gid), writer: MapWriter::Init },
        Some((uids, gids)) => Maps { uid: range(uid, host.uid, uids), gid: range(gid, host.gid, gids), writer: MapWriter::Newidmap },
    }
}

fn single(inside: u32, outside: u32) -> Vec<IdMap> {
    vec![IdMap { container_id: inside, host_id: outside, size: 1 }]
}

/// Id i inside is `start + i`, except that `inside` is the caller; layer trees are unpacked by the same rule and so can be shared.
fn range(inside: u32, outside: u32, sub: SubRange) -> Vec<IdMap> {
    let own = IdMap { container_id: inside, host_id: outside, size: 1 };
    let below = IdMap { container_id: 0, host_id: sub.start, size: inside.min(sub.count) };
    let mut maps = vec![below, own];
    if inside < sub.count.saturating_sub(1) {
        let next = inside + 1;
        maps.push(IdMap { container_id: next, host_id: sub.start + next, size: sub.count - next });
    }
    maps.retain(|map| map.size > 0);
    maps
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUB: SubRange = SubRange { start: 100_000, count: 65_536 };

    fn map(container_id: u32, host_id: u32, size: u32) -> IdMap {
        IdMap { container_id, host_id, size }
    }

    #[test]
    fn the_payloads_user_is_the_caller_and_nothing_overlaps() {
        assert_eq!(range(0, 1000, SUB), [map(0, 1000, 1), map(1, 100_001, 65_535)]);
        assert_eq!(range(33, 1000, SUB), [map(0, 100_000, 33), map(33, 1000, 1), map(34, 100_034, 65_502)]);
        assert_eq!(range(65_535, 1000, SUB), [map(0, 100_000, 65_535), map(65_535, 1000, 1)]);
        assert_eq!(range(70_000, 1000, SUB), [map(0, 100_000, 65_536), map(70_000, 1000, 1)]);
    }
}
