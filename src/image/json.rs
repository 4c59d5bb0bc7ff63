//! Strict JSON: duplicate keys are refused, size of the tree is bounded, types are checked with the path of the key.
//!
//! Two readers of one document must see one document: Go takes the last of two equal keys and ignores case, serde takes the first
//! or fails, and a scanner that read the other one has blessed a different image. So an object may not have two equal keys, and
//! where we look a key up, not two that differ in case only.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Error, shown};

/// Values in one document; the largest real configs have a few thousand. Bounds memory: 8 MiB of `[[],[],…]` would take 100 MiB.
const MAX_VALUES: usize = 200_000;

/// Parses `bytes`; `what` names the document in errors.
pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Value, Error> {
    let mut budget = MAX_VALUES;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { budget: &mut budget }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|source| Error::Syntax { what: what.to_owned(), source })?;
    Ok(value)
}

struct Strict<'a> {
    budget: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if *self.budget == 0 {
            return Err(serde::de::Error::custom(format_args!("more than {MAX_VALUES} values")));
        }
        *self.budget -= 1;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict { budget: &mut *self.budget })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict { budget: &mut *self.budget })?;
            if map.contains_key(&key) {
                return Err(serde::de::Error::custom(format_args!("duplicate key `{}`", shown(key.as_bytes()))));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Drops `null` members: Go writes a nil slice, map or pointer as `null` and reads it as absent, so it means absent.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The shapes that the documents of an image are made of.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    String,
    Unsigned,
    Object,
    Strings,
    StringMap,
    Objects,
    /// An object whose values do not matter: a set of its keys.
    Set,
}

/// Checks that each of `keys` that is present has its shape; a key is a dotted path, `[]` steps into each item of a list.
pub(crate) fn check(value: &Value, what: &str, keys: &[(&str, Shape)]) -> Result<(), Error> {
    keys.iter().try_for_each(|(key, shape)| walk(value, what, key, String::new(), *shape))
}

fn walk(value: &Value, what: &str, rest: &str, at: String, shape: Shape) -> Result<(), Error> {
    if rest.is_empty() {
        return expect(value, what, &at, shape);
    }
    let (head, tail) = split(rest);
    if let Some(name) = head.strip_suffix("[]") {
        let Some(list) = member(value, what, name, &at)? else { return Ok(()) };
        let at = join(&at, name);
        let list = list.as_array().ok_or_else(|| wrong(list, what, &at, "a list"))?;
        return list.iter().enumerate().try_for_each(|(i, item)| walk(item, what, tail, format!("{at}[{i}]"), shape));
    }
    match member(value, what, head, &at)? {
        Some(inner) => walk(inner, what, tail, join(&at, head), shape),
        None => Ok(()),
    }
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Looks `name` up; a second key that differs in case only is refused, see the head of this file.
pub(crate) fn member<'v>(value: &'v Value, what: &str, name: &str, at: &str) -> Result<Option<&'v Value>, Error> {
    let object = value.as_object().ok_or_else(|| wrong(value, what, if at.is_empty() { "." } else { at }, "an object"))?;
    if let Some(other) = object.keys().find(|key| key.eq_ignore_ascii_case(name) && *key != name) {
        let reason = format!("key `{}` differs from `{}` in case only", shown(join(at, other).as_bytes()), join(at, name));
        return Err(Error::refused(what, reason));
    }
    Ok(object.get(name))
}

fn wrong(value: &Value, what: &str, at: &str, expected: &'static str) -> Error {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::Type { what: what.to_owned(), key: shown(at.as_bytes()), expected, found }
}

fn expect(value: &Value, what: &str, at: &str, shape: Shape) -> Result<(), Error> {
    let each = |list: &Vec<Value>, good: fn(&Value) -> bool, expected| match list.iter().position(|item| !good(item)) {
        Some(i) => Err(wrong(&list[i], what, &format!("{at}[{i}]"), expected)),
        None => Ok(()),
    };
    match (shape, value) {
        (Shape::String, Value::String(_)) | (Shape::Object | Shape::Set, Value::Object(_)) => Ok(()),
        (Shape::Unsigned, Value::Number(number)) if number.is_u64() => Ok(()),
        (Shape::Strings, Value::Array(list)) => each(list, Value::is_string, "a string"),
        (Shape::Objects, Value::Array(list)) => each(list, Value::is_object, "an object"),
        (Shape::StringMap, Value::Object(map)) => match map.iter().find(|(_, item)| !item.is_string()) {
            Some((key, item)) => Err(wrong(item, what, &join(at, key), "a string")),
            None => Ok(()),
        },
        (Shape::String, _) => Err(wrong(value, what, at, "a string")),
        (Shape::Unsigned, _) => Err(wrong(value, what, at, "a whole number, 0 or more")),
        (Shape::Object | Shape::Set, _) => Err(wrong(value, what, at, "an object")),
        (Shape::Strings, _) => Err(wrong(value, what, at, "a list of strings")),
        (Shape::Objects, _) => Err(wrong(value, what, at, "a list of objects")),
        (Shape::StringMap, _) => Err(wrong(value, what, at, "an object of strings")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_two_readers_would_read_differently() {
        for (text, word) in [
            (r#"{"a":1,"a":2}"#, "duplicate key `a`"),
            (r#"{"x":{"a":1,"b":2,"a":2}}"#, "duplicate key `a`"),
            (r#"{"a":1} x"#, "trailing characters"),
            (r#"{"a":01}"#, "invalid number"),
        ] {
            let error = parse(text.as_bytes(), "test").unwrap_err();
            let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(text.contains(word), "{text}");
        }
        let value = parse(br#"{"Layers":[],"layers":[]}"#, "test").unwrap();
        assert!(member(&value, "test", "layers", "").is_err());
    }

    #[test]
    fn names_the_key_of_a_wrong_type() {
        let value = parse(br#"{"config":{"Env":["A=1",2],"Labels":{"a":[]}},"layers":[{"size":1},{"size":-1}]}"#, "test").unwrap();
        for (key, shape, word) in [
            ("config/Env", Shape::Strings, "`config.Env[1]` must be a string, and is a number"),
            ("config/Labels", Shape::StringMap, "`config.Labels.a` must be a string, and is a list"),
            ("layers[]/size", Shape::Unsigned, "`layers[1].size` must be a whole number"),
            ("config/Env/x", Shape::String, "`config.Env` must be an object"),
        ] {
            let error = check(&value, "test", &[(key, shape)]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        check(&value, "test", &[("config/User", Shape::String), ("none[]/x", Shape::String)]).unwrap();
    }

    #[test]
    fn bounds_the_tree() {
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(parse(many.as_bytes(), "test").is_err());
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), "test").is_err());
    }
}
