use super::{Draft, Input, Refusal};
pub(super) fn understand(_draft: &mut Draft, _input: Input) -> Result<(), Refusal> { Ok(()) }
