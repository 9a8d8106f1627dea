//! Errors, planted one at a time into the template: the gate must notice each.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Linters;
use crate::House;

/// Who must notice, and how it calls what it has found.
pub(super) enum By {
    /// cfn-lint's code.
    Lint(&'static str),
    /// A rule of `infra/rules.guard`.
    Rule(&'static str),
    /// checkov's id.
    Checkov(&'static str),
}

/// A line of the template, made wrong.
pub(super) struct Planted {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    by: By,
}

const fn planted(name: &'static str, from: &'static str, to: &'static str, by: By) -> Planted {
    Planted { name, from, to, by }
}

#[rustfmt::skip]
pub(super) const ERRORS: &[Planted] = &[
    planted("runtime-unknown", "Runtime: provided.al2023", "Runtime: provided.al1999", By::Lint("E3030")),
    planted("batch-too-large", "BatchSize: 10\n", "BatchSize: 999999\n", By::Lint("E3034")),
    planted("response-type-unknown", "[ReportBatchItemFailures]", "[ReportBatchItems]", By::Lint("E3030")),
    planted("stream-view-unknown", "StreamViewType: NEW_IMAGE", "StreamViewType: BOTH", By::Lint("E3030")),
    planted("key-type-unknown", "AttributeName: sk, KeyType: RANGE", "AttributeName: sk, KeyType: SORT", By::Lint("E3018")),
    planted("attribute-not-declared", "        - { AttributeName: lane, AttributeType: S }\n", "", By::Lint("E3039")),
    planted("resource-missing", "Role: !GetAtt PollerRole.Arn", "Role: !GetAtt PolerRole.Arn", By::Lint("E1010")),
    planted("retention-impossible", "RetentionInDays: !Ref LogRetentionDays", "RetentionInDays: 31", By::Lint("E3030")),

    planted("other-architecture", "Architectures: [arm64]", "Architectures: [x86_64]", By::Rule("functions_are_arm64_on_al2023")),
    planted("no-bisect", "            BisectBatchOnFunctionError: true\n", "", By::Rule("the_stream_cannot_be_blocked")),
    planted("retries-without-end", "            MaximumRetryAttempts: 3\n", "", By::Rule("the_stream_cannot_be_blocked")),
    planted("no-partial-failures", "            FunctionResponseTypes: [ReportBatchItemFailures]\n", "", By::Rule("the_stream_cannot_be_blocked")),
    planted("every-record-wakes", r#""wake":{"S":["act","look"]}"#, r#""pk":{"S":[{"exists":true}]}"#, By::Rule("the_stream_cannot_be_blocked")),
    planted("wildcard-action", "Action: sqs:SendMessage\n", "Action: sqs:SendMessage*\n", By::Rule("policies_name_actions_and_resources")),
    planted("wildcard-resource", "Resource: !GetAtt Table.StreamArn", r#"Resource: "*""#, By::Rule("policies_name_actions_and_resources")),
    planted("wildcard-index", "/index/identifier", "/index/*", By::Rule("policies_name_actions_and_resources")),
    planted("wildcard-secret", "parameter${CodegenApiToken}", "parameter/cyrus/*", By::Rule("policies_name_actions_and_resources")),
    planted("poller-reads-stream", "              - Sid: Secrets
                Effect: Allow
", "              - { Sid: Stream, Effect: Allow, Action: dynamodb:GetRecords, Resource: !GetAtt Table.StreamArn }
              - Sid: Secrets
                Effect: Allow
", By::Rule("only_orchestrator_reads_the_stream")),
    planted("secret-in-the-open", r#"!Sub "${SecretStore}:${GitHubToken}""#, "!Ref GitHubToken", By::Rule("secrets_are_references")),
    planted("key-in-the-open", r#"!Sub "${SecretStore}:${GitHubAppKey}""#, "!Ref GitHubAppKey", By::Rule("secrets_are_references")),
    planted("choice-of-secrets-in-the-open", r#"!Sub "${SecretStore}:${RunnerToken}""#, "!Ref RunnerToken", By::Rule("secrets_are_references")),
    planted("api-without-token", r#"          CYRUS_API_TOKEN: !Sub "${SecretStore}:${CyrusApiToken}""#, "          NOTHING: nothing", By::Rule("webhook_is_never_without_a_token")),
    planted("logs-for-ever", "      RetentionInDays: !Ref LogRetentionDays\n", "", By::Rule("logs_end")),
    planted("no-recovery", "PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false", By::Checkov("CKV_AWS_28")),
    planted("table-goes-with-its-stack", "    DeletionPolicy: Retain\n", "    DeletionPolicy: Delete\n", By::Rule("the_table_is_kept_safe")),
    planted("unprotected", "DeletionProtectionEnabled: true", "DeletionProtectionEnabled: false", By::Rule("the_table_is_kept_safe")),
    planted("no-stream", "      StreamSpecification: { StreamViewType: NEW_IMAGE }\n", "", By::Rule("the_table_is_as_the_store_wants_it")),
    planted("rows-for-ever", "AttributeName: expires_at", "AttributeName: expires", By::Rule("the_table_is_as_the_store_wants_it")),
    planted("other-index", "IndexName: attention", "IndexName: due", By::Rule("the_table_is_as_the_store_wants_it")),
    planted("silent-poller", "TreatMissingData: breaching", "TreatMissingData: notBreaching", By::Rule("what_the_alarms_cover")),
    planted("unencrypted-transport", "            Effect: Deny", "            Effect: Allow", By::Rule("dead_letters_are_encrypted_and_kept")),
    planted("token-for-all", "dynamodb:LeadingKeys: [shelf#tokens]", "dynamodb:LeadingKeys: [shelf#nothing]", By::Rule("webhook_does_not_reach_the_minted_token")),
    planted("hasty-poller", "Timeout: 150", "Timeout: 58", By::Rule("functions_have_time_for_their_last_calls")),
    planted("slow-webhook", "Timeout: 29", "Timeout: 31", By::Rule("functions_have_time_for_their_last_calls")),
];

/// Plants each error, and sees that who must notice it does.
pub(super) fn check(house: &House, linters: &Linters<'_>) -> Result<()> {
    let good = fs::read_to_string(house.root.join("template.yaml")).context("read the template")?;
    let mut places = Vec::new();
    for error in ERRORS {
        if !good.contains(error.from) {
            bail!(
                "the error `{}` cannot be planted: the template has no `{}`",
                error.name,
                error.from
            );
        }
        let place = linters.place(&format!("planted-{}", error.name))?;
        fs::write(&place, good.replace(error.from, error.to)).context("plant an error")?;
        places.push(place);
    }
    let places: Vec<_> = places.iter().map(|it| it.as_path()).collect();
    linters.transform(&places)?;
    let transformed: Vec<_> = places.iter().map(|it| it.with_extension("json")).collect();
    // One run for all, as starting it takes longer than judging.
    let for_lint: Vec<_> = ERRORS
        .iter()
        .zip(&transformed)
        .filter(|(error, _)| matches!(error.by, By::Lint(_)))
        .map(|(_, place)| place.as_path())
        .collect();
    let linted = linters.lint(&for_lint)?;
    for (error, place) in ERRORS.iter().zip(&transformed) {
        let shown = place.display().to_string();
        let (who, noticed) = match error.by {
            By::Lint(code) => (
                code,
                linted
                    .iter()
                    .any(|it| it.starts_with(&shown) && it.contains(&format!(":{code}:"))),
            ),
            By::Rule(rule) => (
                rule,
                linters
                    .guard(place)?
                    .iter()
                    .any(|it| it.starts_with(&format!("rules.guard/{rule} "))),
            ),
            By::Checkov(id) => (id, linters.checkov(place)?.iter().any(|it| it.contains(id))),
        };
        if !noticed {
            bail!("the planted error `{}` went past {who}", error.name);
        }
    }
    Ok(())
}
