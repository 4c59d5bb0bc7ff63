//! A file's table to a flat list of known keys with their values. What is unknown, or a table where none belongs, is a finding.

use super::finding::{Findings, escape, nearest};
use super::keys::{self, KEYS, Kind, SECTIONS};
use super::source::{Item, Name, Source, Value};

/// Most names in one open table, in all files together.
pub const MAX_NAMES: usize = 1024;

/// A key of the schema, as it was written once.
#[derive(Debug)]
pub struct Entry {
    /// Into [`KEYS`].
    pub key: usize,
    /// In an open table, `env.NAME` or `secrets.NAME`.
    pub name: Option<Name>,
    /// The key within a secret.
    pub inner: Option<&'static str>,
    pub item: Item,
    /// `false` once a later file has written the same key.
    pub live: bool,
}

pub struct Walk<'a> {
    pub source: &'a Source,
    pub findings: &'a mut Findings,
    pub entries: Vec<Entry>,
}

impl Walk<'_> {
    pub fn file(&mut self, table: Vec<(Name, Item)>) {
        for (name, item) in table {
            if let Some(key) = keys::find("", &name.text) {
                self.known(key, item);
            } else if keys::is_section(&name.text) {
                self.section(name, item);
            } else {
                self.unknown("", &name);
            }
        }
    }

    fn section(&mut self, section: Name, item: Item) {
        let Value::Table(table) = item.value else {
            let message = format!("is {}, not a table", item.value.kind());
            return self.fail(&section, section.text.clone(), message, Some(format!("[{}]", section.text)));
        };
        for (name, item) in table {
            match keys::find(&section.text, &name.text) {
                Some(key) => self.known(key, item),
                None => self.unknown(&section.text, &name),
            }
        }
    }

    fn known(&mut self, key: usize, item: Item) {
        if !super::check::is_open(KEYS[key].kind) {
            return self.entries.push(Entry { key, name: None, inner: None, item, live: true });
        }
        let path = KEYS[key].path();
        let place = Name { text: path.clone(), at: item.at };
        let Value::Table(table) = item.value else {
            let message = format!("is {}, not a table", item.value.kind());
            return self.fail(&place, path.clone(), message, Some(format!("[{path}]")));
        };
        if table.len() > MAX_NAMES {
            return self.fail(&place, path, format!("has more than {MAX_NAMES} names"), None);
        }
        for (name, item) in table {
            match KEYS[key].kind {
                Kind::Secrets => self.secret(key, name, item),
                _ => self.entries.push(Entry { key, name: Some(name), inner: None, item, live: true }),
            }
        }
    }

    fn secret(&mut self, key: usize, name: Name, item: Item) {
        let path = format!("secrets.{}", escape(&name.text));
        let Value::Table(table) = item.value else {
            let message = format!("is {}, not a table", item.value.kind());
            return self.fail(&name, path, message, Some(format!("{} = {{ from = \"env:NAME\" }}", escape(&name.text))));
        };
        if table.is_empty() {
            self.fail(&name, path.clone(), "has no `from`".into(), Some("from = \"env:NPM_TOKEN\"".into()));
        }
        for (inner, item) in table {
            match keys::SECRET.iter().find(|known| known.name == inner.text) {
                Some(known) => self.entries.push(Entry { key, name: Some(name.clone()), inner: Some(known.name), item, live: true }),
                None => {
                    let near = nearest(&inner.text, keys::SECRET.iter().map(|known| known.name));
                    let hint = near.map_or("keys here: from, target".into(), |near| format!("did you mean `{near}`?"));
                    self.fail(&inner, format!("{path}.{}", escape(&inner.text)), "unknown key".into(), Some(hint));
                }
            }
        }
    }

    fn unknown(&mut self, section: &str, name: &Name) {
        if !self.findings.wants() {
            return;
        }
        let path = if section.is_empty() { escape(&name.text) } else { format!("{section}.{}", escape(&name.text)) };
        let hint = suggest(section, &name.text);
        self.findings.push(Findings::at(self.source, name.at.span(), path, "unknown key".into(), hint));
    }

    fn fail(&mut self, place: &Name, key: String, message: String, hint: Option<String>) {
        if self.findings.wants() {
            self.findings.push(Findings::at(self.source, place.at.span(), key, message, hint));
        }
    }
}

/// The nearest key: of the same table, else of any, said with its table.
fn suggest(section: &str, name: &str) -> Option<String> {
    let here = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let tables = SECTIONS.iter().map(|(table, _)| *table).filter(|_| section.is_empty());
    let near = nearest(name, here.clone().chain(tables));
    if let Some(near) = near {
        return Some(if keys::is_section(near) && section.is_empty() {
            format!("did you mean `[{near}]`?")
        } else {
            format!("did you mean `{near}`?")
        });
    }
    if let Some(key) = KEYS.iter().find(|key| key.name == name).or_else(|| {
        let elsewhere = nearest(name, KEYS.iter().map(|key| key.name))?;
        KEYS.iter().find(|key| key.name == elsewhere)
    }) {
        let table = if key.section.is_empty() { "the top of the file, before any table".into() } else { format!("`[{}]`", key.section) };
        return Some(format!("did you mean `{}` in {table}?", key.name));
    }
    (!section.is_empty()).then(|| format!("keys of [{section}]: {}", here.collect::<Vec<_>>().join(", ")))
}
