//! Serves one empty DynamoDB on a free port of loopback, says which on stdout,
//! and ends when its stdin does: so it never outlives the test that started it.

use dynoxide::Database;
use dynoxide::server;
use tokio::io::{AsyncReadExt as _, stdin};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (mut stdin, mut nothing) = (stdin(), Vec::new());
    tokio::select! {
        () = server::serve_on(listener, Database::memory()?) => {}
        _ = stdin.read_to_end(&mut nothing) => {}
    }
    Ok(())
}
