//! `docs/reference/cluster-file.md`, from the JSON Schema.

use std::fmt::Write as _;

use quorate_plan::spec;
use serde_json::Value;

/// The page.
pub fn reference() -> String {
    let schema = spec::schema();
    let mut out = String::from(
        "# The cluster file\n\nOne YAML document. Unknown keys, wrong types and impossible combinations are reported with line and column, all at once. \
         `quorate schema` prints a JSON Schema of it; `quorate init` writes a file to start from.\n\n\
         ```yaml\napiVersion: quorate/v1\nname: demo\nkubernetes: 1.35.4\nendpoint: { host: api.demo.internal, port: 6443, balancer: { kind: quorate, on: hosts, count: 1 } }\n\
         controlPlane: { count: 3 }\nworkers: { count: 1 }\nnetwork: { cni: flannel, pods: 10.244.0.0/16, services: 10.96.0.0/12 }\nprovider: { kind: local }\n```\n\n\
         With `count`, hosts are named cp-1, cp-2, … (masters), w-1, … (workers) and lb-1, … (balancers), and their addresses are those of the \
         subnet that end in 11, 12, …, in 101, … and in 201, …; the one that ends in 1 is the bridge.\n",
    );
    let root = &schema;
    table(&mut out, root, root, "Top level");
    let properties = root["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        section(&mut out, root, property, name);
    }
    out
}

/// A table of a group's keys, and then its own groups'.
fn section(out: &mut String, root: &Value, property: &Value, path: &str) {
    let group = resolve(root, property);
    if !group["properties"].is_object() {
        return;
    }
    table(out, root, group, &format!("`{path}`"));
    for (name, property) in group["properties"].as_object().into_iter().flatten() {
        section(out, root, property, &format!("{path}.{name}"));
        // Hosts are the same everywhere: their keys are listed once.
        if path == "controlPlane" && name == "hosts" {
            section(out, root, &property["items"], "a host");
        }
    }
}

fn table(out: &mut String, root: &Value, group: &Value, title: &str) {
    write!(out, "\n## {title}\n\n| key | value | |\n|---|---|---|\n")
        .expect("a String takes everything");
    let required: Vec<&str> = group["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in group["properties"].as_object().into_iter().flatten() {
        let mut text = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        if required.contains(&name.as_str()) {
            text = format!("**Required.** {text}");
        }
        for (word, meaning) in words(resolve(root, property)) {
            write!(text, "<br>`{word}`: {meaning}").expect("a String takes everything");
        }
        let kind = kind(root, property);
        writeln!(out, "| `{name}` | {kind} | {text} |").expect("a String takes everything");
    }
}

fn resolve<'a>(root: &'a Value, property: &'a Value) -> &'a Value {
    match property["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix('#'))
    {
        Some(path) => root.pointer(path).unwrap_or(property),
        None => property,
    }
}

/// What may be written there.
fn kind(root: &Value, property: &Value) -> &'static str {
    let resolved = resolve(root, property);
    match resolved["type"].as_str() {
        Some("integer") => "number",
        Some("boolean") => "`true` or `false`",
        Some("array") => "list of hosts",
        Some("object") => "group",
        Some("string") => "text",
        Some(_) | None => "one of these",
    }
}

/// Words that are possible, each with its meaning.
fn words(resolved: &Value) -> Vec<(String, String)> {
    resolved["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|word| {
            let meaning = word["description"].as_str().unwrap_or_default();
            let name = match word["const"].as_str() {
                Some(name) => name.to_owned(),
                None => {
                    let key = word["properties"].as_object()?.keys().next()?;
                    format!("{{ {key}: … }}")
                }
            };
            Some((name, meaning.replace('\n', " ")))
        })
        .collect()
}
