//! Decisions to classic BPF.
//!
//! A filter is built as a graph of decisions, children before parents, and then written backwards: the last instruction first, so that
//! every jump goes to something that already has its place. Numbers become ranges, and ranges a binary tree of `>=`: nine comparisons at
//! most to any verdict, where a list would take hundreds. The kernel runs a new filter once for every number to learn which calls it
//! always allows, and such calls pay nothing afterwards; so nothing but the calls with argument rules may load an argument.

use seccompiler::{BpfProgram, sock_filter};

/// The kernel's `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Jumps of conditions reach this far; beyond it stands a stepping stone.
const REACH: usize = 255;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// How a word is compared with a constant; the value is the BPF instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    Equal = 0x15,
    Greater = 0x25,
    AtLeast = 0x35,
    /// Any of these bits is set.
    AnyBit = 0x45,
}

/// A word of `struct seccomp_data`, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u32);

impl Word {
    pub const NUMBER: Self = Self(0);
    pub const ARCH: Self = Self(4);

    /// The low half of an argument. Where the kernel takes an `int`, it looks at nothing else, and neither may the filter: a compare of
    /// all 64 bits is walked round by setting a bit above them.
    pub const fn low(argument: u8) -> Self {
        Self(16 + 8 * argument as u32)
    }

    pub const fn high(argument: u8) -> Self {
        Self(20 + 8 * argument as u32)
    }
}

/// A place in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(u32);

#[derive(Clone, Copy)]
enum Decision {
    Return(u32),
    Test { word: Word, mask: u32, op: Op, value: u32, yes: Node, no: Node },
}

/// The answer of [`Graph::reaching`].
pub struct Reaching(Vec<bool>);

impl Reaching {
    pub fn from(&self, node: Node) -> bool {
        self.0[node.0 as usize]
    }
}

/// Too many instructions for the kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// The decisions of a filter.
pub struct Graph {
    decisions: Vec<Decision>,
    verdicts: Vec<(u32, Node)>,
}

impl Default for Graph {
    fn default() -> Self {
        Self { decisions: Vec::with_capacity(192), verdicts: Vec::with_capacity(8) }
    }
}

impl Graph {
    /// How many decisions there are so far, the unused ones included.
    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// Ends with this `SECCOMP_RET_*`.
    pub fn verdict(&mut self, action: u32) -> Node {
        if let Some((_, node)) = self.verdicts.iter().find(|(known, _)| *known == action) {
            return *node;
        }
        let node = self.add(Decision::Return(action));
        self.verdicts.push((action, node));
        node
    }

    /// Asks one word one thing.
    pub fn test(&mut self, word: Word, op: Op, value: u32, yes: Node, no: Node) -> Node {
        self.masked(word, u32::MAX, op, value, yes, no)
    }

    /// As [`Self::test`], of the word with only these bits.
    pub fn masked(&mut self, word: Word, mask: u32, op: Op, value: u32, yes: Node, no: Node) -> Node {
        if yes == no { yes } else { self.add(Decision::Test { word, mask, op, value, yes, no }) }
    }

    /// Where a word leads that is compared with the starts of ranges, the first of which is 0.
    pub fn ranges(&mut self, word: Word, ranges: &[(u32, Node)]) -> Node {
        let segments = self.fold_singles(word, ranges);
        self.tree(word, &segments)
    }

    /// As [`Self::ranges`], for spans from first to last in ascending order, and one place for all between them.
    pub fn spans(&mut self, word: Word, spans: &[(u32, u32, Node)], otherwise: Node) -> Node {
        let mut ranges: Vec<(u32, Node)> = Vec::with_capacity(2 * spans.len() + 1);
        let mut add = |start, node| {
            ranges.pop_if(|(same, _)| *same == start);
            if ranges.last().is_none_or(|(_, last)| *last != node) {
                ranges.push((start, node));
            }
        };
        add(0, otherwise);
        for &(first, last, node) in spans {
            add(first, node);
            if let Some(after) = last.checked_add(1) {
                add(after, otherwise);
            }
        }
        self.ranges(word, &ranges)
    }

    /// Which decisions can end with an action of this kind. One walk for all: ways through a graph are more than anyone can follow.
    pub fn reaching(&self, kind: impl Fn(u32) -> bool) -> Reaching {
        let mut reaching: Vec<bool> = Vec::with_capacity(self.decisions.len());
        for decision in &self.decisions {
            reaching.push(match *decision {
                Decision::Return(action) => kind(action),
                Decision::Test { yes, no, .. } => reaching[yes.0 as usize] || reaching[no.0 as usize],
            });
        }
        Reaching(reaching)
    }

    /// One word against a few values.
    pub fn one_of(&mut self, word: Word, values: &[u32], yes: Node, no: Node) -> Node {
        values.iter().rev().fold(no, |rest, &value| self.test(word, Op::Equal, value, yes, rest))
    }

    /// A single number with the same verdict on both sides costs one `==` instead of two `>=`. Two of them a segment, so that the tree
    /// stays flat.
    fn fold_singles(&mut self, word: Word, ranges: &[(u32, Node)]) -> Vec<(u32, Node)> {
        let mut segments: Vec<(u32, Node)> = Vec::with_capacity(ranges.len());
        let mut at = 0;
        while at < ranges.len() {
            let (start, outer) = ranges[at];
            let mut leads = outer;
            let mut singles = 0;
            while singles < 2 {
                let [_, (single, inner), (after, around), ..] = ranges[at..] else { break };
                if around != outer || after != single + 1 {
                    break;
                }
                leads = self.test(word, Op::Equal, single, inner, leads);
                singles += 1;
                at += 2;
            }
            segments.push((start, leads));
            at += 1;
        }
        segments
    }

    fn tree(&mut self, word: Word, segments: &[(u32, Node)]) -> Node {
        if let [(_, only)] = segments {
            return *only;
        }
        let (below, above) = segments.split_at(segments.len() / 2);
        let yes = self.tree(word, above);
        let no = self.tree(word, below);
        self.test(word, Op::AtLeast, above[0].0, yes, no)
    }

    fn add(&mut self, decision: Decision) -> Node {
        self.decisions.push(decision);
        Node(self.decisions.len() as u32 - 1)
    }

    /// The program that starts with this decision.
    pub fn assemble(&self, root: Node) -> Result<BpfProgram, TooLong> {
        let entries = self.entries(root);
        let mut code = Backwards { program: Vec::with_capacity(entries.len() + 32), places: vec![Place::default(); entries.len()] };
        for (at, entry) in entries.iter().enumerate() {
            match self.decisions[at] {
                _ if !entry.bare && !entry.loaded => {}
                Decision::Return(action) => {
                    let place = code.push(RETURN, 0, 0, action);
                    code.places[at] = Place { bare: place, loaded: place };
                }
                Decision::Test { word, mask, op, value, yes, no } => {
                    let held = if mask == u32::MAX { Some(word) } else { None };
                    let yes = (yes, self.holds(yes, held));
                    let no = (no, self.holds(no, held));
                    let (yes, no) = code.within_reach(&self.decisions, yes, no);
                    let jump = code.push(op as u16, yes, no, value);
                    code.places[at] = Place { bare: jump, loaded: jump };
                    if mask != u32::MAX {
                        code.places[at].bare = code.push(AND, 0, 0, mask);
                    }
                    if entry.loaded {
                        code.places[at].loaded = code.push(LOAD, 0, 0, word.0);
                    }
                }
            }
            if code.program.len() > MAX_INSTRUCTIONS {
                return Err(TooLong(code.program.len()));
            }
        }
        code.program.reverse();
        Ok(code.program)
    }

    /// How each decision is come to: `bare` with its word already in the accumulator, `loaded` otherwise. Parents come after children,
    /// so one walk from the end knows all.
    fn entries(&self, root: Node) -> Vec<Entry> {
        let mut entries = vec![Entry::default(); root.0 as usize + 1];
        entries[root.0 as usize].loaded = true;
        for at in (0..entries.len()).rev() {
            let Decision::Test { word, mask, yes, no, .. } = self.decisions[at] else { continue };
            if !entries[at].bare && !entries[at].loaded {
                continue;
            }
            let held = if mask == u32::MAX { Some(word) } else { None };
            for child in [yes, no] {
                if self.holds(child, held) {
                    entries[child.0 as usize].bare = true;
                } else {
                    entries[child.0 as usize].loaded = true;
                }
            }
        }
        entries
    }

    /// Whether a decision can do with what the accumulator holds.
    fn holds(&self, node: Node, held: Option<Word>) -> bool {
        match self.decisions[node.0 as usize] {
            Decision::Return(_) => true,
            Decision::Test { word, .. } => held == Some(word),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Entry {
    bare: bool,
    loaded: bool,
}

/// Where a decision begins, counted from the end of the program.
#[derive(Clone, Copy, Default)]
struct Place {
    bare: usize,
    loaded: usize,
}

/// A program that grows towards its start.
struct Backwards {
    program: BpfProgram,
    places: Vec<Place>,
}

impl Backwards {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.program.push(sock_filter { code, jt, jf, k });
        self.program.len() - 1
    }

    /// The two distances of a condition that comes next. What is too far gets a stepping stone here: a copy of a return, or a long jump.
    fn within_reach(&mut self, decisions: &[Decision], yes: (Node, bool), no: (Node, bool)) -> (u8, u8) {
        for (node, bare) in [yes, no] {
            // One more stone may follow before the condition does.
            if self.program.len() + 1 - self.place(node, bare) > REACH {
                let stone = match decisions[node.0 as usize] {
                    Decision::Return(action) => self.push(RETURN, 0, 0, action),
                    Decision::Test { .. } => {
                        let distance = self.program.len() - self.place(node, bare) - 1;
                        self.push(JUMP, 0, 0, distance as u32)
                    }
                };
                let place = &mut self.places[node.0 as usize];
                if bare {
                    place.bare = stone;
                } else {
                    place.loaded = stone;
                }
            }
        }
        let distance = |(node, bare)| (self.program.len() - self.place(node, bare) - 1) as u8;
        (distance(yes), distance(no))
    }

    fn place(&self, node: Node, bare: bool) -> usize {
        let place = self.places[node.0 as usize];
        if bare { place.bare } else { place.loaded }
    }
}
