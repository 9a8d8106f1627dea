//! One call to DynamoDB: how long and how often it is tried, and what it cost.
//!
//! The SDK's own retries are switched off, because only here is known what a
//! lost answer means. All tries of one call together, pauses included, take at
//! most [`CALL_SECONDS_MAX`]: no try begins after [`BUDGET`], and each takes at
//! most [`TRY_MAX`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{anyhow, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::ConsumedCapacity;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a single try may take.
const TRY_MAX: Duration = Duration::from_secs(3);
/// How long it may take to be connected.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// When the last try of a call may begin.
const BUDGET: Duration = Duration::from_secs(6);
/// How often a call is tried.
const TRIES_MAX: u32 = 10;
/// The longest first pause between two tries; it doubles with each …
const PAUSE: Duration = Duration::from_millis(25);
/// … up to this. How much of it is waited is left to chance.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What all tries of one call take together at most.
pub const CALL_SECONDS_MAX: u64 = BUDGET.as_secs() + TRY_MAX.as_secs();
/// What DynamoDB answers where the same call may succeed a moment later.
const BUSY: [&str; 6] = [
    "ThrottlingException",
    "ThrottlingError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "TransactionInProgressException",
    "TransactionConflictException",
];

/// The same client, bounded.
pub(super) fn patient(client: &Client) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_MAX)
        .operation_attempt_timeout(TRY_MAX)
        .build();
    let config = client.config().to_builder();
    Client::from_conf(
        config
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build(),
    )
}

/// What a try without success means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// Nothing was done, and another try may succeed.
    Busy,
    /// No answer: it may have been done. Another try may succeed.
    Unanswered,
    /// Refused, and it would be refused again.
    Refused,
}

impl Miss {
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Self {
        match error {
            SdkError::ServiceError(it) => {
                if it.err().code().is_some_and(|code| BUSY.contains(&code)) {
                    Self::Busy
                } else if !it.raw().status().is_client_error() {
                    // Nor is what cannot be understood an answer.
                    Self::Unanswered
                } else {
                    Self::Refused
                }
            }
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Self::Unanswered,
            // Nor is a client without credentials answered; it fails in the end.
            SdkError::DispatchFailure(_) => Self::Unanswered,
            _ => Self::Refused,
        }
    }
}

/// The tries of one call.
pub(super) struct Tries {
    begun: Instant,
    made: u32,
}

impl Tries {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            made: 1,
        }
    }

    /// Waits a moment before another try, unless there were enough of them.
    pub(super) async fn another(&mut self) -> anyhow::Result<()> {
        let pause = PAUSE * 2_u32.pow(self.made - 1);
        let pause = pause.min(PAUSE_MAX).mul_f64(chance());
        let made = self.made;
        ensure!(
            made < TRIES_MAX && self.begun.elapsed() + pause < BUDGET,
            "given up after {made} tries in {:.1} s",
            self.begun.elapsed().as_secs_f64()
        );
        self.made += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Sends what may be sent twice, until it is answered.
pub(super) async fn sent<T, E, F>(send: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut tries = Tries::begin();
    loop {
        let error = match send().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match Miss::of(&error) {
            Miss::Busy | Miss::Unanswered => again(&mut tries, &error).await?,
            Miss::Refused => return Err(told(&error)),
        }
    }
}

/// Another try after this error; if there is none, the error says why.
pub(super) async fn again<E>(
    tries: &mut Tries,
    error: &SdkError<E, HttpResponse>,
) -> anyhow::Result<()>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let another = tries.another().await;
    another.map_err(|enough| told(error).context(format!("{enough}")))
}

/// What went wrong, in one line.
pub(super) fn told<E>(error: &SdkError<E, HttpResponse>) -> anyhow::Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(it) => {
            let status = it.raw().status().as_u16();
            let code = it.err().code().unwrap_or("no code");
            let message = it.err().message().unwrap_or("no message");
            anyhow!("DynamoDB answers {status} {code}: {message}")
        }
        other => anyhow!("DynamoDB cannot be asked: {}", DisplayErrorContext(other)),
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    let [byte, other, ..] = Uuid::new_v4().into_bytes();
    f64::from(u16::from_le_bytes([byte, other])) / f64::from(u16::MAX)
}

/// Capacity units, as DynamoDB counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Consumed {
    pub read: f64,
    pub write: f64,
}

/// Sums what calls consumed. Units come in halves at the least.
#[derive(Default)]
pub(super) struct Meter {
    read_halves: AtomicU64,
    write_halves: AtomicU64,
}

impl Meter {
    pub(super) fn read_units(&self, consumed: Option<&ConsumedCapacity>) {
        count(&self.read_halves, consumed);
    }

    pub(super) fn write_units(&self, consumed: Option<&ConsumedCapacity>) {
        count(&self.write_halves, consumed);
    }

    pub(super) fn transaction(&self, consumed: &[ConsumedCapacity]) {
        for table in consumed {
            self.write_units(Some(table));
        }
    }

    pub(super) fn read(&self) -> Consumed {
        let units = |halves: &AtomicU64| halves.load(Ordering::Relaxed) as f64 / 2.0;
        Consumed {
            read: units(&self.read_halves),
            write: units(&self.write_halves),
        }
    }
}

fn count(halves: &AtomicU64, consumed: Option<&ConsumedCapacity>) {
    let units = consumed.and_then(|it| it.capacity_units).unwrap_or(0.0);
    halves.fetch_add((units * 2.0).round() as u64, Ordering::Relaxed);
}
