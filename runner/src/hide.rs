//! Keeping our own tokens from whatever runs as the same user: agents do.

/// From now on no other process of this user can read our memory or our
/// environment (`/proc/…/environ`), or attach to us; nor is a core dumped. What
/// we start is as open as ever: nothing of ours is in it. Only on Linux.
pub fn hide() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            tracing::warn!("cannot keep our environment to ourselves: {error}");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use rustix::process::{DumpableBehavior, dumpable_behavior};

    #[test]
    fn we_are_closed_and_what_we_start_is_not() {
        super::hide();
        let ours = dumpable_behavior().expect("it is told");
        assert_eq!(ours, DumpableBehavior::NotDumpable);
        // Its own files are its own user's, which they are not where it is closed.
        let child = Command::new("cat").arg("/proc/self/environ").output();
        assert!(child.expect("cat runs").status.success());
    }
}
