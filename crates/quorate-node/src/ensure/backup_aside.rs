//! What was kept before a conversion is moved aside: another conversion begins with another backup.

use super::Work;
use crate::{aside::Aside, error::ActionError, facts::KEPT};

pub(super) fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    Aside::new(work.paths).take(&format!("/var/lib/quorate/{KEPT}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{facts, testing};

    #[test]
    fn it_is_moved_and_not_deleted() {
        let machine = testing::machine();
        let note = r#"{"snapshot":null,"kubeconfigs":{},"serving":null,"objects":null}"#;
        machine.write("/var/lib/quorate/conversion/backup.json", note);
        for _ in 0..2 {
            testing::with_work(&machine, "w-1", |work| super::ensure(work).unwrap());
            assert_eq!(facts::backup(&machine.paths).unwrap(), None);
        }
        let aside = std::fs::read_dir(machine.paths.state("aside")).unwrap();
        assert_eq!(aside.count(), 1);
    }
}
