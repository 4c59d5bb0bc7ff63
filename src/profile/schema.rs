//! The JSON Schema for editors, made from the table of keys. Never needed by a run.

use serde_json::{Map, Value as Json, json};

use super::keys::{Inner, KEYS, Kind, MOUNT, SECRET, SECTIONS};

/// Draft 7, which editors for TOML take; `profiles/schema.json` is its text.
pub fn schema() -> String {
    let mut properties = table("");
    for (section, about) in SECTIONS {
        properties.insert((*section).into(), object(table(section), about));
    }
    let mut schema = object(properties, "What a program needs to run: image, files, limits, network, environment.");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("hamper profile");
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

fn object(properties: Map<String, Json>, about: &str) -> Json {
    json!({ "type": "object", "description": about, "properties": properties, "additionalProperties": false })
}

fn table(section: &str) -> Map<String, Json> {
    let keys = KEYS.iter().filter(|key| key.section == section);
    keys.map(|key| (key.name.to_owned(), described(of(key.kind), key.doc, key.default))).collect()
}

/// The default is text for people where it is no TOML value of its own.
fn described(mut schema: Json, doc: &str, default: &str) -> Json {
    schema["description"] = json!(doc);
    if let Ok(parsed) = toml::from_str::<toml::Table>(&format!("x = {default}"))
        && let Ok(value) = serde_json::to_value(&parsed["x"])
    {
        schema["default"] = value;
    }
    schema
}

fn of(kind: Kind) -> Json {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::TextList => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Word(words) => json!({ "type": "string", "enum": words() }),
        Kind::WordList(words) => json!({ "type": "array", "items": { "type": "string", "enum": words() } }),
        Kind::Size => json!({ "type": ["string", "integer"], "pattern": "^[0-9]+[KMGTkmgt]?$", "minimum": 0 }),
        Kind::Duration => json!({ "type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", "minLength": 2 }),
        Kind::Integer(least, greatest) => json!({ "type": "integer", "minimum": least, "maximum": greatest }),
        Kind::IntegerList(least, greatest) => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": least, "maximum": greatest } })
        }
        Kind::Number => json!({ "type": "number", "minimum": 0.01, "maximum": 8192 }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Signal => json!({ "type": ["string", "integer"], "minimum": 1, "maximum": 64 }),
        Kind::TextMap => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::LimitMap => limits(),
        Kind::Mounts => json!({ "type": "array", "items": inner(MOUNT) }),
        Kind::Secrets => json!({ "type": "object", "additionalProperties": inner(SECRET) }),
    }
}

fn limits() -> Json {
    let value = json!({ "type": ["integer", "string"], "minimum": 0 });
    let names = super::words::words::<super::model::Rlimit>();
    let properties: Map<String, Json> = names.into_iter().map(|name| (name.to_owned(), value.clone())).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn inner(keys: &[Inner]) -> Json {
    let properties: Map<String, Json> =
        keys.iter().map(|key| (key.name.to_owned(), described(of(key.kind), key.doc, key.default))).collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false, "required": required })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/schema.json");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(file == schema(), "run: hamper profile schema > profiles/schema.json");
    }

    #[test]
    #[ignore = "writes profiles/schema.json"]
    fn write_the_file() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/schema.json"), schema()).expect("write");
    }

    /// As much of JSON Schema as the schema uses, except `pattern`.
    fn violations(schema: &Json, value: &Json, at: &str, told: &mut Vec<String>) {
        let kind = match value {
            Json::Object(_) => "object",
            Json::Array(_) => "array",
            Json::String(_) => "string",
            Json::Bool(_) => "boolean",
            Json::Number(number) if number.is_f64() => "number",
            Json::Number(_) => "integer",
            Json::Null => "null",
        };
        let fits = |wanted: &Json| wanted == kind || wanted == "number" && kind == "integer";
        if let Some(wanted) = schema.get("type")
            && !(fits(wanted) || wanted.as_array().is_some_and(|any| any.iter().any(fits)))
        {
            told.push(format!("{at}: {kind}"));
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array)
            && !words.contains(value)
        {
            told.push(format!("{at}: not in enum"));
        }
        if let Some(number) = value.as_f64() {
            let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
            if bound("minimum").is_some_and(|least| number < least) || bound("maximum").is_some_and(|greatest| number > greatest) {
                told.push(format!("{at}: out of bounds"));
            }
        }
        for (index, element) in value.as_array().into_iter().flatten().enumerate() {
            violations(&schema["items"], element, &format!("{at}[{index}]"), told);
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            match (schema.get("properties").and_then(|known| known.get(name)), schema.get("additionalProperties")) {
                (Some(known), _) => violations(known, inner, &at, told),
                (None, Some(Json::Object(any))) => violations(&Json::Object(any.clone()), inner, &at, told),
                (None, _) => told.push(format!("{at}: unknown")),
            }
        }
        for name in schema.get("required").and_then(Json::as_array).into_iter().flatten() {
            if name.as_str().is_some_and(|name| value.get(name).is_none()) {
                told.push(format!("{at}: {name} missing"));
            }
        }
    }

    fn told(text: &str) -> Vec<String> {
        let schema: Json = serde_json::from_str(&schema()).expect("schema");
        let value: toml::Table = toml::from_str(text).expect("toml");
        let mut told = Vec::new();
        violations(&schema, &serde_json::to_value(value).expect("json"), "", &mut told);
        told
    }

    #[test]
    fn shipped_profiles_fit_it() {
        for shipped in super::super::SHIPPED {
            assert_eq!(told(shipped.text), Vec::<String>::new(), "{}", shipped.name);
        }
    }

    #[test]
    fn wrong_ones_do_not() {
        for text in [
            "nam = 1",
            "pull = \"x\"",
            "[limits]\npids = 0",
            "[[mounts]]\nsource = \"x\"",
            "[env]\nA = 1",
            "[limits.ulimits]\nx = 1",
            "schema = 2",
        ] {
            assert_eq!(told(text).len(), 1, "{text}");
        }
    }
}
