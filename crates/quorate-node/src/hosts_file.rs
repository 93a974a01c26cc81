//! The lines of `/etc/hosts` that Quorate manages, between two lines that say so. Everything else in the file is left as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use crate::{
    durable::{self, FileError},
    paths::Paths,
};

/// The first line of the block.
const BEGIN: &str = "# BEGIN quorate: changes between these lines are overwritten";
/// The last line of the block.
const END: &str = "# END quorate";

const FILE: &str = "/etc/hosts";

/// Names and addresses between the two lines.
pub(crate) fn look(paths: &Paths) -> Result<BTreeMap<String, IpAddr>, FileError> {
    let text = durable::read_text(&paths.at(FILE))?.unwrap_or_default();
    Ok(parse(&text))
}

/// The IPv4 addresses that the whole file gives a name. None where the system's resolver does not look at the file first, or the name
/// is not in it.
pub(crate) fn resolve(paths: &Paths, name: &str) -> BTreeSet<IpAddr> {
    let read = |path: &str| {
        let text = durable::read_text(&paths.at(path)).ok().flatten();
        text.unwrap_or_default()
    };
    let switch = read("/etc/nsswitch.conf");
    let order = switch
        .lines()
        .find_map(|line| line.trim().strip_prefix("hosts:"));
    if order.is_some_and(|order| order.split_whitespace().next() != Some("files")) {
        return BTreeSet::new();
    }
    entries(read(FILE).lines())
        .filter(|(there, address)| there.eq_ignore_ascii_case(name) && address.is_ipv4())
        .map(|(_, address)| address)
        .collect()
}

/// Every name with its address.
fn entries<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, IpAddr)> {
    lines.flat_map(|line| {
        let names = line.split_once('#').map_or(line, |(names, _)| names);
        let mut words = names.split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        words.filter_map(move |name| Some((name, address?)))
    })
}

fn parse(text: &str) -> BTreeMap<String, IpAddr> {
    let lines = text
        .lines()
        .skip_while(|line| line.trim() != BEGIN)
        .take_while(|line| line.trim() != END);
    entries(lines)
        .map(|(name, address)| (name.to_owned(), address))
        .collect()
}

/// Puts exactly these names between the two lines. Says whether the file was changed.
pub(crate) fn ensure(paths: &Paths, names: &BTreeMap<String, IpAddr>) -> Result<bool, FileError> {
    let path = paths.at(FILE);
    let text = durable::read_text(&path)?.unwrap_or_default();
    if parse(&text) == *names {
        return Ok(false);
    }
    // Anybody may read it: resolvers run as anybody.
    durable::write(&path, edited(&text, names).as_bytes(), 0o644)?;
    Ok(true)
}

fn edited(text: &str, names: &BTreeMap<String, IpAddr>) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        match line.trim() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if !names.is_empty() {
        writeln!(out, "{BEGIN}").expect("a String takes everything");
        for (name, address) in names {
            writeln!(out, "{address} {name}").expect("a String takes everything");
        }
        writeln!(out, "{END}").expect("a String takes everything");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn names(pairs: &[(&str, &str)]) -> BTreeMap<String, IpAddr> {
        pairs
            .iter()
            .map(|(name, address)| ((*name).to_owned(), address.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_the_block_is_touched() {
        let machine = testing::machine();
        let theirs = "127.0.0.1 localhost\n10.0.0.9 api.demo.internal # mine\n";
        machine.write(FILE, theirs);
        let wanted = names(&[("api.demo.internal", "10.0.0.1"), ("b", "10.0.0.2")]);
        assert!(ensure(&machine.paths, &wanted).unwrap());
        assert_eq!(look(&machine.paths).unwrap(), wanted);
        assert!(machine.read(FILE).starts_with(theirs));
        assert!(!ensure(&machine.paths, &wanted).unwrap(), "twice is once");

        let fewer = names(&[("b", "10.0.0.3")]);
        assert!(ensure(&machine.paths, &fewer).unwrap());
        assert_eq!(look(&machine.paths).unwrap(), fewer);
        assert_eq!(machine.read(FILE).matches(BEGIN).count(), 1);

        assert!(ensure(&machine.paths, &names(&[])).unwrap());
        assert_eq!(machine.read(FILE), theirs, "as it was before");
    }

    #[test]
    fn a_file_without_a_block_or_without_an_end() {
        assert!(parse("10.0.0.1 a\n").is_empty());
        let open = format!("x\n{BEGIN}\n10.0.0.1 a b # c\nnonsense\n");
        assert_eq!(parse(&open).len(), 2, "names until the end of the file");
        assert_eq!(edited(&open, &names(&[])), "x\n");
        let machine = testing::machine();
        assert!(!ensure(&machine.paths, &names(&[])).unwrap());
        assert!(!machine.paths.at(FILE).exists());
    }

    #[test]
    fn names_of_the_whole_file_where_it_comes_first() {
        let machine = testing::machine();
        assert!(resolve(&machine.paths, "api").is_empty());
        machine.write(
            FILE,
            "# 10.0.0.9 api\n10.0.0.1 API api.demo # api2\n::1 api\n10.0.0.2 api\n",
        );
        let both = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap()).into();
        assert_eq!(resolve(&machine.paths, "api"), both);
        assert!(resolve(&machine.paths, "api2").is_empty());
        machine.write("/etc/nsswitch.conf", "passwd: files\nhosts:\tfiles dns\n");
        assert_eq!(resolve(&machine.paths, "api"), both);
        machine.write("/etc/nsswitch.conf", "hosts: resolve files\n");
        assert!(resolve(&machine.paths, "api").is_empty());
    }

    #[test]
    fn an_end_without_a_beginning_is_somebody_elses_line() {
        let text = format!("a\n{END}\nb\n");
        assert_eq!(edited(&text, &names(&[])), text);
    }
}
