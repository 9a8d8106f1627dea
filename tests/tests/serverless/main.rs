//! The whole serverless shape on this machine: the real functions under
//! Lambda's Runtime API, a DynamoDB emulator, the table's stream as event
//! source, a schedule. Time is real, so a claim whose holder was killed costs
//! its lease; tests that do that are few, and run side by side.

mod axe;
mod cloud;
mod door;
mod emulator;
mod hybrid;
mod machine;
mod story;
mod template;
mod trouble;
