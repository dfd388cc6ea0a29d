//! Keeps secrets out of the records: values of query parameters, headers and posted details with
//! telling names.
//!
//! Names are compared without case and without `-`, `_` and `.`, so that `X-API-Key`, `api_key`
//! and `apikey` need one entry. What is hidden is the value; that it was there stays visible.

use std::borrow::Cow;
use std::collections::HashSet;

use percent_encoding::percent_decode_str;

/// What stands where a secret stood.
pub const REDACTED: &str = "REDACTED";

/// Always hidden, whatever the configuration adds. Folded: lower case, no separators.
const USUAL_SECRETS: &[&str] = &[
    "accesstoken",
    "apikey",
    "apitoken",
    "assertion",
    "auth",
    "authorization",
    "authtoken",
    "awsaccesskeyid",
    "clientassertion",
    "clientsecret",
    "code",
    "codeverifier",
    "cookie",
    "credential",
    "credentials",
    "idtoken",
    "jwt",
    "passwd",
    "password",
    "passphrase",
    "privatekey",
    "proxyauthorization",
    "pwd",
    "refreshtoken",
    "secret",
    "sessionid",
    "setcookie",
    "sig",
    "signature",
    "subscriptionkey",
    "token",
    "xamzcredential",
    "xamzsecuritytoken",
    "xamzsignature",
    "xapikey",
    "xauthtoken",
    "xcsrftoken",
    "xgoogcredential",
    "xgoogsignature",
    "xibmclientsecret",
    "xxsrftoken",
];

/// Names whose values are hidden.
#[derive(Clone, Debug)]
pub struct Secrets {
    names: HashSet<String>,
}

impl Secrets {
    /// The usual names and `more`.
    pub fn usual_and<'a>(more: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(USUAL_SECRETS.iter().copied().chain(more))
    }

    /// These names alone.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            names: names.into_iter().map(folded).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether values of this name are hidden.
    pub fn names(&self, name: &str) -> bool {
        self.names.contains(&folded(name))
    }

    /// A header's value as it may be recorded.
    pub fn header<'v>(&self, name: &str, value: &'v str) -> &'v str {
        if self.names(name) { REDACTED } else { value }
    }

    /// A query string, without its `?`, as it may be recorded. All but the secrets stays as sent.
    pub fn query<'q>(&self, query: &'q str) -> Cow<'q, str> {
        // Some servers take `;` for a separator too: to split more than they do hides nothing less.
        let is_secret = |pair: &str| {
            pair.split_once('=')
                .is_some_and(|(key, value)| !value.is_empty() && self.key(key))
        };
        if !query.split(['&', ';']).any(is_secret) {
            return Cow::Borrowed(query);
        }
        let mut redacted = String::with_capacity(query.len());
        for pair in query.split_inclusive(['&', ';']) {
            let bare = pair.trim_end_matches(['&', ';']);
            match bare.split_once('=') {
                Some((key, _)) if is_secret(bare) => {
                    redacted.push_str(key);
                    redacted.push('=');
                    redacted.push_str(REDACTED);
                }
                _ => redacted.push_str(bare),
            }
            redacted.push_str(&pair[bare.len()..]);
        }
        Cow::Owned(redacted)
    }

    /// A query key, as sent.
    fn key(&self, encoded: &str) -> bool {
        self.hide(&percent_decode_str(encoded).decode_utf8_lossy())
    }

    /// Whether values of this key are hidden: by its name, or by any part of one that is written
    /// `user[password]` or `user.password`.
    pub fn hide(&self, key: &str) -> bool {
        self.names(key) || key.split(['[', ']', '.']).any(|part| self.names(part))
    }
}

fn folded(name: &str) -> String {
    name.chars()
        .filter(|letter| !matches!(letter, '-' | '_' | '.' | ' ' | '+'))
        .map(|letter| letter.to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_query_are_hidden_and_nothing_else() {
        let secrets = Secrets::usual_and(["x-voucher"]);
        let check = |query: &str, expected: &str| assert_eq!(secrets.query(query), expected);
        check("", "");
        check("id=1&page=2", "id=1&page=2");
        check(
            "id=1&access_token=abc&page=2",
            "id=1&access_token=REDACTED&page=2",
        );
        check("API-Key=abc", "API-Key=REDACTED");
        check("%61pi_key=abc", "%61pi_key=REDACTED");
        check("token=a=b", "token=REDACTED");
        check("token", "token");
        check("token=", "token=");
        check("a=1;sig=xyz", "a=1;sig=REDACTED");
        check(
            "user[password]=p&user.token=t",
            "user[password]=REDACTED&user.token=REDACTED",
        );
        check("user%5Bpassword%5D=p", "user%5Bpassword%5D=REDACTED");
        check(
            "x_voucher=7&&token=1&",
            "x_voucher=REDACTED&&token=REDACTED&",
        );
        check(
            "tokens=3&postcode=12345&zip_code=1",
            "tokens=3&postcode=12345&zip_code=1",
        );
    }

    #[test]
    fn secret_headers_are_hidden() {
        let secrets = Secrets::usual_and([]);
        for name in [
            "Authorization",
            "Proxy-Authorization",
            "Cookie",
            "Set-Cookie",
            "X-API-Key",
            "X-IBM-Client-Secret",
        ] {
            assert_eq!(secrets.header(name, "v"), REDACTED, "{name}");
        }
        assert_eq!(secrets.header("X-IBM-Client-Id", "v"), "v");
        assert_eq!(secrets.header("Content-Type", "v"), "v");
    }
}
