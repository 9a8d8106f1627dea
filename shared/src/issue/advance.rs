use super::Draft;
pub fn advance(_draft: &mut Draft) {}
