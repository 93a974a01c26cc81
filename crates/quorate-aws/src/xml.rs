//! XML as the query API answers it, read into a tree. Answers are hostile bytes: their depth and number of elements are bounded, and there
//! are no entities but those that XML itself has.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deeper than any answer of AWS.
const DEPTH_MAX: usize = 24;
/// A page of a thousand instances with all they have is below it.
const ELEMENTS_MAX: usize = 200_000;

/// One element. Attributes and namespaces say nothing in these answers.
#[derive(Debug, Default)]
pub(crate) struct Xml {
    pub(crate) name: String,
    text: String,
    children: Vec<Xml>,
}

/// An answer that is well formed and not what was asked for; what is missing or wrong in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfit(pub(crate) String);

impl Xml {
    /// Reads a whole document; answers its root.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Xml, Unfit> {
        let wrong = |why: &str| Unfit(why.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let mut reader = Reader::from_str(text);
        let mut elements = 0;
        // Elements that are open, the outermost first.
        let mut open: Vec<Xml> = Vec::new();
        let mut root = None;
        loop {
            let event = reader.read_event().map_err(|err| {
                Unfit(format!(
                    "it is not XML at byte {}: {err}",
                    reader.error_position()
                ))
            })?;
            match event {
                Event::Start(start) => {
                    elements += 1;
                    if elements > ELEMENTS_MAX || open.len() == DEPTH_MAX {
                        return Err(wrong("it has more elements than any answer has"));
                    }
                    if open.is_empty() && root.is_some() {
                        return Err(wrong("it has two roots"));
                    }
                    open.push(Xml {
                        name: start.local_name().as_ref().to_owned(),
                        ..Xml::default()
                    });
                }
                Event::Empty(start) => {
                    elements += 1;
                    if elements > ELEMENTS_MAX {
                        return Err(wrong("it has more elements than any answer has"));
                    }
                    let element = Xml {
                        name: start.local_name().as_ref().to_owned(),
                        ..Xml::default()
                    };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None if root.is_none() => root = Some(element),
                        None => return Err(wrong("it has two roots")),
                    }
                }
                Event::End(_) => {
                    let element = open
                        .pop()
                        .ok_or_else(|| wrong("it ends what is not open"))?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => root = Some(element),
                    }
                }
                Event::Text(text) => push(&mut open, &text)?,
                Event::CData(text) => push(&mut open, &text)?,
                Event::GeneralRef(reference) => {
                    let written = format!("&{};", &*reference.xml10_content());
                    let meant = quick_xml::escape::unescape(&written)
                        .map_err(|_| Unfit(format!("`{written}` stands for nothing in XML")))?;
                    push(&mut open, &meant)?;
                }
                Event::DocType(_) => return Err(wrong("it declares a document type")),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        match open.pop() {
            Some(element) => Err(Unfit(format!("`{}` does not end", element.name))),
            None => root.ok_or_else(|| wrong("it is empty")),
        }
    }

    /// The child of that name.
    pub(crate) fn child(&self, name: &str) -> Option<&Xml> {
        self.children.iter().find(|child| child.name == name)
    }

    /// A child that has to be there.
    pub(crate) fn has(&self, name: &str) -> Result<&Xml, Unfit> {
        self.child(name)
            .ok_or_else(|| Unfit(format!("`{}` has no `{name}`", self.name)))
    }

    /// Its own text, without blanks around it.
    pub(crate) fn own_text(&self) -> &str {
        self.text.trim()
    }

    /// The text of a child; an empty one is as good as none.
    pub(crate) fn optional(&self, name: &str) -> Option<String> {
        self.child(name)
            .map(|child| child.own_text().to_owned())
            .filter(|text| !text.is_empty())
    }

    /// The text of a child that has to have one.
    pub(crate) fn text(&self, name: &str) -> Result<String, Unfit> {
        self.has(name)?;
        self.optional(name)
            .ok_or_else(|| Unfit(format!("`{name}` in `{}` is empty", self.name)))
    }

    /// A child that can be read as something else: a number, an address.
    pub(crate) fn read<T: std::str::FromStr>(&self, name: &str) -> Result<T, Unfit> {
        let text = self.text(name)?;
        text.parse().map_err(|_| self.unread(name, &text))
    }

    /// The same for one that need not be there. One that is there and cannot be read is not as good as absent.
    pub(crate) fn read_optional<T: std::str::FromStr>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Unfit> {
        match self.optional(name) {
            Some(text) => text.parse().map(Some).map_err(|_| self.unread(name, &text)),
            None => Ok(None),
        }
    }

    fn unread(&self, name: &str, text: &str) -> Unfit {
        Unfit(format!(
            "`{name}` in `{}` is `{}`, which is nothing that can stand there",
            self.name,
            crate::error::shown(text, 100)
        ))
    }

    /// The items of a list that has to be there. An absent list is not an empty one.
    pub(crate) fn list(&self, name: &str) -> Result<&[Xml], Unfit> {
        self.has(name).map(|list| list.children.as_slice())
    }

    /// The items of a list that AWS leaves out when it is empty.
    pub(crate) fn list_or_none(&self, name: &str) -> &[Xml] {
        self.child(name)
            .map_or(&[], |list| list.children.as_slice())
    }

    /// The first element of that name, however deep.
    pub(crate) fn find(&self, name: &str) -> Option<&Xml> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

fn push(open: &mut [Xml], text: &str) -> Result<(), Unfit> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(Unfit("it has text outside of any element".to_owned())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Xml::parse(text.as_bytes()).unwrap_err().0
    }

    #[test]
    fn an_answer_is_read() {
        let xml = Xml::parse(
            b"<?xml version=\"1.0\"?>\n<A xmlns=\"http://x/\"><!-- c --><N> 7 </N><T>a &lt;&amp;&#x41; <![CDATA[<b>]]></T><L><member>x</member><member/></L><E/></A>\n",
        )
        .unwrap();
        assert_eq!(xml.name, "A");
        assert_eq!(xml.read::<u16>("N"), Ok(7));
        assert_eq!(xml.text("T").unwrap(), "a <&A <b>");
        assert_eq!(xml.list("L").unwrap().len(), 2);
        assert_eq!(xml.optional("E"), None);
        assert_eq!(xml.read_optional::<u16>("E"), Ok(None));
        assert!(xml.find("member").is_some());
        for (err, expected) in [
            (xml.text("E").unwrap_err(), "`E` in `A` is empty"),
            (xml.text("X").unwrap_err(), "`A` has no `X`"),
            (xml.list("X").unwrap_err(), "`A` has no `X`"),
            (
                xml.read::<u16>("T").unwrap_err(),
                "`T` in `A` is `a <&A <b>`, which is nothing that can stand there",
            ),
        ] {
            assert_eq!(err.0, expected);
        }
        assert!(xml.list_or_none("X").is_empty());
    }

    #[test]
    fn damage_is_an_error_or_another_text_and_never_a_panic() {
        let whole = "<A xmlns=\"http://x/\"><L><member>1 &amp; 2</member><!-- c --><member/></L><![CDATA[x]]></A>";
        for end in 0..whole.len() {
            assert!(Xml::parse(&whole.as_bytes()[..end]).is_err(), "{end}");
        }
        let mut read = 0;
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.as_bytes().to_vec();
                damaged[at] ^= 1 << bit;
                read += usize::from(Xml::parse(&damaged).is_ok());
            }
        }
        // Most of it shows; in a text or a name's both ends it cannot.
        assert!(read > 0 && read < whole.len() * 4, "{read}");
    }

    #[test]
    fn what_is_no_answer_is_said() {
        assert_eq!(fault(""), "it is empty");
        assert_eq!(
            fault("<a><b></a>").split(':').next(),
            Some("it is not XML at byte 6")
        );
        assert_eq!(fault("<a><b>"), "`b` does not end");
        assert_eq!(fault("<a/><b/>"), "it has two roots");
        assert_eq!(fault("<a></a><b></b>"), "it has two roots");
        assert_eq!(fault("busy"), "it has text outside of any element");
        assert_eq!(
            fault("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>"),
            "it declares a document type"
        );
        assert_eq!(fault("<a>&x;</a>"), "`&x;` stands for nothing in XML");
        assert!(fault("<a><b").starts_with("it is not XML"));
        assert_eq!(Xml::parse(b"<a>\xff</a>").unwrap_err().0, "it is not UTF-8");
        let deep = "<a>".repeat(10_000);
        assert_eq!(fault(&deep), "it has more elements than any answer has");
        let wide = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX));
        assert_eq!(fault(&wide), "it has more elements than any answer has");
    }
}
