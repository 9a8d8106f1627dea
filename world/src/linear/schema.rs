//! The schema that documents are executed against: Linear's own where its file
//! is found, or the part of it that our documents use.

use std::path::PathBuf;
use std::sync::{LazyLock, OnceLock};

use anyhow::{Context, anyhow};
use apollo_compiler::Schema;
use apollo_compiler::validation::Valid;

/// Names the file with Linear's schema.
pub const VARIABLE: &str = "LINEAR_SCHEMA";
/// Where it lies, under some folder above the crate that is being tested.
const PLACE: &str = "shared/reference/linear-schema.graphql";

/// The part that our own documents use, always at hand.
pub fn embedded() -> &'static Valid<Schema> {
    static SCHEMA: LazyLock<Valid<Schema>> = LazyLock::new(|| {
        Schema::parse_and_validate(include_str!("subset.graphql"), "subset.graphql")
            .expect("the text is a constant, and tests validate it")
    });
    &SCHEMA
}

/// Linear's own, if its file is there. It is read once.
pub fn found() -> anyhow::Result<Option<&'static Valid<Schema>>> {
    static SCHEMA: OnceLock<Valid<Schema>> = OnceLock::new();
    if let Some(schema) = SCHEMA.get() {
        return Ok(Some(schema));
    }
    let Some(path) = path() else {
        return Ok(None);
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(|| format!("read `{name}`"))?;
    let schema = Schema::parse_and_validate(text, &path)
        .map_err(|it| anyhow!("`{name}` is no schema: {}", it.errors))?;
    Ok(Some(SCHEMA.get_or_init(|| schema)))
}

/// Where Linear's own schema is, if anywhere.
pub fn path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Some(path.into());
    }
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    here.ancestors()
        .map(|it| it.join(PLACE))
        .find(|it| it.is_file())
}
