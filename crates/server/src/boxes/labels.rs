//! Changing a box's labels.

use boxyard_proto::names::LABELS_MAX;

use super::BoxError;

/// One label more, or one less.
#[derive(Debug)]
pub(super) enum LabelChange {
    Add(String),
    Remove(String),
}

impl LabelChange {
    pub(super) fn apply(self, labels: &[String]) -> Result<Vec<String>, BoxError> {
        match self {
            Self::Add(label) if labels.contains(&label) => Err(BoxError::LabelTaken),
            Self::Add(_) if labels.len() >= LABELS_MAX => Err(BoxError::LabelsFull),
            Self::Add(label) => Ok(labels.iter().cloned().chain([label]).collect()),
            Self::Remove(label) if !labels.contains(&label) => Err(BoxError::LabelMissing),
            Self::Remove(label) => Ok(labels.iter().filter(|kept| **kept != label).cloned().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_once_and_removed_if_there() {
        let labels: Vec<String> = vec!["a".into(), "b".into()];
        assert!(matches!(LabelChange::Add("a".into()).apply(&labels), Err(BoxError::LabelTaken)));
        assert!(matches!(LabelChange::Remove("c".into()).apply(&labels), Err(BoxError::LabelMissing)));
        assert_eq!(LabelChange::Add("c".into()).apply(&labels).ok(), Some(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(LabelChange::Remove("a".into()).apply(&labels).ok(), Some(vec!["b".into()]));
        let full: Vec<String> = (0..LABELS_MAX).map(|n| n.to_string()).collect();
        assert!(matches!(LabelChange::Add("x".into()).apply(&full), Err(BoxError::LabelsFull)));
    }
}
