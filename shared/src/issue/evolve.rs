use super::{Issue, Record};
pub fn evolve(_issue: &mut Issue, _record: &Record) {}
