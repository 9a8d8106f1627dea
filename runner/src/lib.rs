//! The local runner: agent programs in git worktrees on a machine of the
//! user's. No decision about what is worth running. In reading order:
//!
//! * [`executor`]: keeps the promises of [`shared::ports::Executor`].
//! * `work`: what happens to one job, from the worktree to the pull request.
//! * `folder`: a job's folder, from which every step can be taken up again.
//! * `kept`: the folders of all jobs, and when they go.
//! * [`supervisor`]: the process above one leg of an agent, or one script; it outlives us.
//! * `agent`: agent programs, their command lines and what their output means.
//! * `tail`: reading on in what an agent prints.
//! * [`worktree`]: git, from the fetch to the push.
//! * [`forge`]: pull requests and merges where there is no GitHub.
//! * `process`: killing what is left of an agent.
//! * [`environment`]: what agents, and git, may see of our environment.
//! * [`hide`](hide()): keeping our own tokens from agents.
//! * [`far`]: all of it for a control plane that runs elsewhere.

mod agent;
pub mod environment;
pub mod executor;
pub mod far;
mod folder;
pub mod forge;
mod hide;
mod kept;
mod process;
pub mod supervisor;
mod tail;
mod work;
pub mod worktree;

pub use self::agent::{find_program, installed, locate, programs};
pub use self::environment::{AgentEnv, agent_env, git_env};
pub use self::executor::{LocalExecutor, Options, Progress};
pub use self::forge::{Forges, GitForge};
pub use self::hide::hide;
pub use self::supervisor::supervise;
pub use self::worktree::check_repository;
