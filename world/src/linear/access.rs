//! Who may ask: keys and tokens, as Linear tells the good ones from the others.

use std::collections::BTreeSet;

/// Personal keys begin with this and are sent without `Bearer`.
const PERSONAL_KEY_PREFIX: &str = "lin_api_";

/// What opens the door. Nothing does, until it is said.
#[derive(Clone, Debug, Default)]
pub struct Access {
    tokens: BTreeSet<String>,
    client: Option<(String, String)>,
    minted: Option<String>,
    minted_count: usize,
}

impl Access {
    /// Takes an OAuth token or a personal key as good.
    pub fn accept(&mut self, token: &str) {
        self.tokens.insert(token.to_owned());
    }

    /// Takes an app's own credentials as good.
    pub fn accept_client(&mut self, id: &str, secret: &str) {
        self.client = Some((id.to_owned(), secret.to_owned()));
    }

    /// No token that was minted is good any more.
    pub fn revoke_minted(&mut self) {
        self.minted = None;
    }

    /// How many tokens were minted.
    pub fn minted_count(&self) -> usize {
        self.minted_count
    }

    /// Is this `Authorization` good?
    pub fn allows(&self, header: &str) -> bool {
        let token = header.strip_prefix("Bearer ").unwrap_or(header);
        let written = match token.starts_with(PERSONAL_KEY_PREFIX) {
            true => token.to_owned(),
            false => format!("Bearer {token}"),
        };
        header == written && (self.tokens.contains(token) || self.minted.as_deref() == Some(token))
    }

    /// Gives a token for an app's credentials; the one before ends.
    pub fn mint(&mut self, id: &str, secret: &str) -> Option<String> {
        let (good_id, good_secret) = self.client.as_ref()?;
        if (id, secret) != (good_id.as_str(), good_secret.as_str()) {
            return None;
        }
        self.minted_count += 1;
        self.minted = Some(format!("lin_oauth_minted_{}", self.minted_count));
        self.minted.clone()
    }
}
