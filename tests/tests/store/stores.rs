//! The stores, each with the whole contract.

use std::any::Any;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use shared::ports::{Log, Registers};
use shared::store::dynamo::DynamoLog;
use shared::store::memory::MemoryLog;
use shared::store::sqlite::SqliteLog;
use world::dynamo::{Emulator, Proxy, client, create_table};

use crate::{accounts, contract, in_time, registers, upkeep};

/// A store to be tested, empty, and whatever must live as long.
pub(crate) struct Subject {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) registers: Arc<dyn Registers>,
    _kept: Box<dyn Any + Send>,
}

impl Subject {
    pub(crate) fn new<S: Log + Registers + 'static>(store: S, kept: impl Any + Send) -> Self {
        let store = Arc::new(store);
        Self {
            log: Arc::clone(&store) as Arc<dyn Log>,
            registers: store,
            _kept: Box::new(kept),
        }
    }
}

fn memory() -> Subject {
    Subject::new(MemoryLog::default(), ())
}

fn sqlite() -> Subject {
    let folder = tempfile::tempdir().expect("a folder");
    let log = SqliteLog::open(&folder.path().join("cyrus.db")).expect("a new store");
    Subject::new(log, folder)
}

/// A table in an emulator of its own.
async fn dynamo() -> Subject {
    let emulator = Emulator::start().expect("an emulator");
    let client = emulator.client();
    create_table(&client, "cyrus").await.expect("a table");
    Subject::new(DynamoLog::new(&client, "cyrus"), emulator)
}

/// The same, with answers that come in pages of two.
async fn dynamo_in_pages() -> Subject {
    let emulator = Emulator::start().expect("an emulator");
    create_table(&emulator.client(), "cyrus")
        .await
        .expect("a table");
    let proxy = Proxy::start(&emulator).await.expect("a proxy");
    proxy.page(2);
    let log = DynamoLog::new(&proxy.client(), "cyrus");
    Subject::new(log, (emulator, proxy))
}

/// A table in moto, in a region of its own. `None`: this machine has no moto.
async fn moto(region: &str) -> Option<Subject> {
    static MOTO: OnceLock<Option<Emulator>> = OnceLock::new();
    let moto = MOTO.get_or_init(|| Emulator::start_moto().expect("moto starts"));
    let Some(moto) = moto else {
        let what = "moto is not installed: `cargo xtask test` does it";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}");
        // Not by a macro, whose words the harness would keep to itself.
        writeln!(std::io::stderr(), "SKIPPED {region}: {what}").expect("stderr");
        return None;
    };
    let client = client(&moto.url(), region);
    create_table(&client, "cyrus").await.expect("a table");
    Some(Subject::new(DynamoLog::new(&client, "cyrus"), ()))
}

macro_rules! every_store_keeps_to {
    (alone: $($file:ident::$claim:ident),* ; in_a_crowd: $($crowd_file:ident::$crowd:ident),* $(;)?) => {
        every_store_keeps_to! { @each memory, memory(), $($file::$claim,)* $($crowd_file::$crowd,)* }
        every_store_keeps_to! { @each sqlite, sqlite(), $($file::$claim,)* $($crowd_file::$crowd,)* }
        every_store_keeps_to! { @each dynamo, dynamo().await, $($file::$claim,)* $($crowd_file::$crowd,)* }
        every_store_keeps_to! { @each dynamo_in_pages, dynamo_in_pages().await, $($file::$claim,)* }
        mod moto {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() {
                if let Some(store) = super::moto(&stringify!($claim).replace('_', "-")).await {
                    super::in_time(super::$file::$claim(store)).await;
                }
            })*
        }
    };
    (@each $name:ident, $store:expr, $($file:ident::$claim:ident,)*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() {
                let store = $store;
                super::in_time(super::$file::$claim(store)).await;
            })*
        }
    };
}

// A transaction of moto that fails undoes what others did meanwhile: no crowds there.
every_store_keeps_to! {
    alone:
        contract::what_was_appended_is_read_again,
        contract::a_conflict_writes_nothing,
        contract::what_contradicts_itself_is_refused,
        contract::attention_goes_to_the_most_overdue,
        contract::an_issue_is_found_by_id_and_by_identifier,
        contract::heads_come_newest_first_and_in_pages,
        contract::heads_that_started_at_once_have_an_order,
        contract::a_log_is_read_from_anywhere,
        contract::long_texts_come_back_as_they_were,
        accounts::entries_come_with_the_append,
        accounts::an_entry_over_its_limit_refuses_all,
        accounts::a_limit_is_about_one_figure,
        accounts::who_has_not_seen_the_last_event_enters_nothing,
        registers::a_register_is_replaced_by_who_has_seen_it,
        registers::a_register_is_over_in_its_time,
        registers::a_shelf_lists_its_registers_by_name,
        upkeep::a_parked_issue_is_in_nobodys_way,
        upkeep::a_head_is_rebuilt_where_its_log_ends;
    in_a_crowd:
        contract::of_many_writers_one_wins_each_seq,
        contract::issues_do_not_stand_in_each_others_way,
        accounts::of_many_entries_as_many_as_fit_are_made,
        registers::of_many_writers_one_wins_each_version;
}
