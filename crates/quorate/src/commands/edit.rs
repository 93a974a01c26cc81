//! What to change in a cluster file, by line: the file says what the cluster shall be, and no verb works against it.

use std::path::Path;

use quorate_plan::{NodeName, spec::Provider};

use crate::{
    cluster::{self, ClusterFile},
    exit::Exit,
    failure::Failure,
};

/// The file still names a master that is to be removed.
///
/// # Errors
/// When the file cannot be read any more.
pub(super) fn still_wanted(cluster: &ClusterFile, node: &NodeName) -> Result<Failure, Failure> {
    let text = cluster::read_text("the cluster file", &cluster.path)?;
    let spec = &cluster.spec;
    let mut failure = Failure::new(
        Exit::Refused,
        format!("the cluster file still wants {node}: nothing was done"),
    );
    let again = format!("then run `quorate remove {node}` again");
    if let Provider::Terraform { .. } = spec.provider {
        return Ok(failure.hint(format!(
            "its hosts are Terraform's: write `{{ leaving = true }}` for {node} in `masters` there and apply; {again}"
        )));
    }
    if !spec.control_plane.contains_key(node) {
        failure.causes = quoted(&cluster.path, &text, &lines_naming(&text, node));
        return Ok(failure.hint(format!(
            "{node} is no master: only masters are removed by this command"
        )));
    }
    let masters = spec.control_plane.len();
    let named = lines_naming(&text, node);
    if !named.is_empty() {
        failure.causes = quoted(&cluster.path, &text, &named);
        failure = match masters {
            1 => failure.hint("it is the only master: name another host in its place"),
            _ => failure.hint(format!(
                "take {node} out there, and one more: {} masters survive no more losses than {}; {again}",
                masters - 1,
                masters - 2
            )),
        };
        return Ok(failure.hint(in_its_place(node)));
    }
    let counted = lines_counting(&text);
    failure.causes = quoted(&cluster.path, &text, &counted);
    let last: Vec<&NodeName> = by_number(spec.control_plane.keys())
        .into_iter()
        .rev()
        .take(2)
        .collect();
    Ok(match last.as_slice() {
        [_, _] if masters > 2 && last.contains(&node) => {
            let other = last.iter().find(|other| **other != node);
            let other = other.map_or(String::new(), |other| format!(" ({other} leaves as well)"));
            failure.hint(format!(
                "write `controlPlane: {{ count: {} }}` there{other}; {again}",
                masters - 2
            ))
        }
        _ => failure.hint(in_its_place(node)),
    })
}

/// The file does not say that one host comes in another's place.
///
/// # Errors
/// When the file cannot be read any more.
pub(super) fn not_swapped(
    cluster: &ClusterFile,
    node: &NodeName,
    with: &NodeName,
) -> Result<Failure, Failure> {
    let text = cluster::read_text("the cluster file", &cluster.path)?;
    let spec = &cluster.spec;
    let mut failure = Failure::new(
        Exit::Refused,
        format!("the cluster file does not say that {with} comes for {node}: nothing was done"),
    );
    let again = format!("then run `quorate replace {node} --with {with}` again");
    if let Provider::Terraform { .. } = spec.provider {
        return Ok(failure.hint(format!(
            "its hosts are Terraform's: name {with} in `masters` there, write `{{ leaving = true }}` for {node}, and apply; {again}"
        )));
    }
    let named = lines_naming(&text, node);
    if !spec.control_plane.contains_key(node) && spec.machine(node).is_some() {
        failure.causes = quoted(&cluster.path, &text, &named);
        return Ok(failure.hint(format!("{node} is no master")));
    }
    if spec.machine(with).is_some() && !spec.control_plane.contains_key(with) {
        failure.causes = quoted(&cluster.path, &text, &lines_naming(&text, with));
        return Ok(failure.hint(format!("{with} is no master there")));
    }
    if !named.is_empty() {
        failure.causes = quoted(&cluster.path, &text, &named);
        let there = spec.control_plane.contains_key(with);
        return Ok(failure.hint(if there {
            format!("take {node} out there; {again}")
        } else {
            format!("name {with} in its place, with its own address; {again}")
        }));
    }
    failure.causes = quoted(&cluster.path, &text, &lines_counting(&text));
    let others = spec.control_plane.keys().filter(|name| *name != node);
    let masters: Vec<String> = by_number(others.chain([with]))
        .into_iter()
        .map(|name| format!("{{ name: {name} }}"))
        .collect();
    Ok(if spec.control_plane.contains_key(node) && spec.local() {
        failure.hint(format!(
            "write `controlPlane: {{ hosts: [{}] }}` there; {again}",
            masters.join(", ")
        ))
    } else {
        failure.hint(format!("name {with} among the masters; {again}"))
    })
}

fn in_its_place(node: &NodeName) -> String {
    format!(
        "to have another host in its place, name that one there and run `quorate replace {node} --with HOST`"
    )
}

/// Names as `count` numbers them.
fn by_number<'a>(names: impl Iterator<Item = &'a NodeName>) -> Vec<&'a NodeName> {
    let number = |name: &NodeName| {
        let digits = name.as_str().rsplit('-').next();
        digits.and_then(|digits| digits.parse::<u32>().ok())
    };
    let mut names: Vec<&NodeName> = names.collect();
    names.sort_by_key(|name| (number(name), name.as_str().to_owned()));
    names
}

/// Lines, from 0, that name a host as `name:`.
fn lines_naming(text: &str, node: &NodeName) -> Vec<usize> {
    lines(text, |line| {
        line.match_indices("name:").any(|(at, key)| {
            let value = line[at + key.len()..].trim_start();
            let value = value.trim_start_matches(['"', '\'']);
            let end = value.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.'));
            value[..end.unwrap_or(value.len())] == *node.as_str()
        })
    })
}

/// Lines, from 0, of the masters' count.
fn lines_counting(text: &str) -> Vec<usize> {
    let begin = lines(text, |line| line.starts_with("controlPlane:"));
    let Some(begin) = begin.first().copied() else {
        return Vec::new();
    };
    // The count is on the same line, or on one of the indented ones below it.
    let below = text.lines().enumerate().skip(begin);
    below
        .take_while(|(at, line)| *at == begin || line.starts_with([' ', '#']) || line.is_empty())
        .filter(|(_, line)| without_comment(line).contains("count:"))
        .map(|(at, _)| at)
        .collect()
}

fn lines(text: &str, is_it: impl Fn(&str) -> bool) -> Vec<usize> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| is_it(without_comment(line)))
        .map(|(at, _)| at)
        .collect()
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with('#') {
        return "";
    }
    line.split_once(" #").map_or(line, |(code, _)| code)
}

/// `cluster.yaml:9: - { name: cp-3 }`.
fn quoted(path: &Path, text: &str, lines: &[usize]) -> Vec<String> {
    let name = path.file_name().unwrap_or(path.as_os_str()).display();
    text.lines()
        .enumerate()
        .filter(|(at, _)| lines.contains(at))
        .map(|(at, line)| format!("{name}:{}: {}", at + 1, line.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_whole_names() {
        let text = "# name: cp-1\ncontrolPlane:\n  hosts:\n  - { name: cp-1, address: 10.0.0.1 }\n  - name: \"cp-10\"\n  \
                    - { address: 10.0.0.2, name: cp-2 } # was: name: cp-1\n";
        let found = |name: &str| lines_naming(text, &name.parse().unwrap());
        assert_eq!(found("cp-1"), [3]);
        assert_eq!(found("cp-10"), [4]);
        assert_eq!(found("cp-2"), [5]);
        assert!(found("cp-3").is_empty());
        let path = Path::new("/x/cluster.yaml");
        assert_eq!(
            quoted(path, text, &found("cp-1")),
            ["cluster.yaml:4: - { name: cp-1, address: 10.0.0.1 }"]
        );
    }

    #[test]
    fn the_count_of_the_masters_and_of_nobody_else() {
        let flow = "endpoint: { balancer: { count: 1 } }\ncontrolPlane: { count: 3 }\nworkers: { count: 2 }\n";
        assert_eq!(lines_counting(flow), [1]);
        let block =
            "controlPlane:\n  # how many\n  bringUp: together\n  count: 5\nworkers:\n  count: 2\n";
        assert_eq!(lines_counting(block), [3]);
        assert!(lines_counting("name: x\n").is_empty());
    }
}
