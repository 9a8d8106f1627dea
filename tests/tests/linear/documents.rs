//! Every GraphQL document of ours, held against Linear's schema.

use std::io::Write;
use std::path::Path;

use apollo_compiler::schema::{ExtendedType, InputValueDefinition};
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Node, Schema};
use world::linear::schema;

/// Documents there are at least: a wrong folder would otherwise validate nothing.
const DOCUMENTS_MIN: usize = 7;

#[test]
fn every_document_is_valid_in_linears_schema() {
    if let Some(schema) = linears() {
        check_documents(schema);
    }
}

#[test]
fn every_document_is_valid_in_the_subset() {
    check_documents(schema::embedded());
}

#[test]
fn each_document_is_one_operation_named_as_its_file() {
    for (file, text) in documents() {
        let document = ExecutableDocument::parse_and_validate(schema::embedded(), &text, &file)
            .expect("valid");
        let operation = document.operations.get(None).expect("one operation");
        let name = operation.name.as_ref().expect("a name").to_string();
        assert_eq!(snake(&name) + ".graphql", file);
    }
}

#[test]
fn the_subset_is_a_part_of_linears_schema() {
    let Some(real) = linears() else { return };
    let mut wrong = Vec::new();
    for (name, ours) in &schema::embedded().types {
        match real.types.get(name) {
            Some(theirs) => compare(name, ours, theirs, &mut wrong),
            None => wrong.push(format!("Linear has no type `{name}`")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_misspelt_field_is_noticed() {
    let text = "query { viewer { id nmae } }";
    ExecutableDocument::parse_and_validate(schema::embedded(), text, "misspelt.graphql")
        .expect_err("Linear has no such field");
}

fn compare(name: &str, ours: &ExtendedType, theirs: &ExtendedType, wrong: &mut Vec<String>) {
    match (ours, theirs) {
        (ExtendedType::Object(ours), ExtendedType::Object(theirs)) => {
            for (field, our) in &ours.fields {
                let place = format!("{name}.{field}");
                match theirs.fields.get(field) {
                    Some(their) if their.ty == our.ty => {
                        for argument in &our.arguments {
                            let their = their.argument_by_name(&argument.name);
                            compare_input(&place, argument, their, wrong);
                        }
                    }
                    Some(their) => wrong.push(format!("`{place}` is {} there", their.ty)),
                    None => wrong.push(format!("Linear has no `{place}`")),
                }
            }
        }
        (ExtendedType::InputObject(ours), ExtendedType::InputObject(theirs)) => {
            for (field, our) in &ours.fields {
                let their = theirs.fields.get(field).map(|it| &it.node);
                compare_input(name, our, their, wrong);
            }
        }
        (ExtendedType::Scalar(_), ExtendedType::Scalar(_)) => {}
        // What introspection brings along.
        (ExtendedType::Enum(ours), ExtendedType::Enum(theirs)) => {
            assert!(
                ours.values.keys().all(|it| theirs.values.contains_key(it)),
                "{name}"
            );
        }
        _ => wrong.push(format!("`{name}` is of another kind there")),
    }
}

fn compare_input(
    place: &str,
    ours: &InputValueDefinition,
    theirs: Option<&Node<InputValueDefinition>>,
    wrong: &mut Vec<String>,
) {
    match theirs {
        Some(theirs) if theirs.ty == ours.ty => {}
        Some(theirs) => wrong.push(format!("`{place}({})` is {} there", ours.name, theirs.ty)),
        None => wrong.push(format!("Linear has no `{place}({})`", ours.name)),
    }
}

fn check_documents(schema: &Valid<Schema>) {
    for (file, text) in documents() {
        if let Err(invalid) = ExecutableDocument::parse_and_validate(schema, &text, &file) {
            panic!("{file} is no document of Linear's:\n{}", invalid.errors);
        }
    }
}

/// Our documents: file name and text.
fn documents() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/src/linear/graphql");
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder of the documents") {
        let entry = entry.expect("an entry");
        let text = std::fs::read_to_string(entry.path()).expect("a text");
        documents.push((entry.file_name().to_string_lossy().into_owned(), text));
    }
    assert!(
        documents.len() >= DOCUMENTS_MIN,
        "only {} documents",
        documents.len()
    );
    documents
}

/// Linear's own schema. Where its file is absent that is said past the capture
/// of the test's output, and in CI it is a failure.
pub(crate) fn linears() -> Option<&'static Valid<Schema>> {
    let found = schema::found().expect("a schema that can be read");
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI has to have Linear's schema"
        );
        let said = format!(
            "\nSKIPPED: Linear's schema is not here, so nothing was held against it. \
             Let {} name the file.\n",
            schema::VARIABLE
        );
        std::io::stderr()
            .write_all(said.as_bytes())
            .expect("a place to complain");
    }
    found
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
