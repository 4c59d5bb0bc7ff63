//! Who hamper is to a registry: Basic over TLS, tokens, files of credentials, helper programs, login and logout.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::faulty::{Asked, Faulty, Reply};
use super::server::{Server, program};
use super::{layout, skopeo};
use crate::require;
use crate::support::{Seen, TestEnv, seconds};

fn pull(env: &TestEnv, reference: &str) -> Seen {
    env.hamper(["image", "--map", "single", "pull", reference]).output().any()
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().expect("parent")).expect("directories");
    fs::write(path, text).expect("file");
}

fn docker_config(env: &TestEnv) -> PathBuf {
    env.home().join(".docker/config.json")
}

/// `openssl req` of a CA, and a certificate of it for localhost.
fn certificates(env: &TestEnv) -> PathBuf {
    let directory = env.directory("tls");
    let script = "cd \"$1\" && openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca 2>/dev/null \
                  && openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost 2>/dev/null \
                  && printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' >extensions \
                  && openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile extensions 2>/dev/null";
    env.program("sh", ["-c", script, "sh", &directory.display().to_string()]).output().code(0);
    directory
}

/// bcrypt of `secret word`, by htpasswd.
const HASH: &str = "$2y$12$Nei4rsydO3zBN7Lx7KJ2Qez2OVj/r5/sYvaXQTFmnj3P/FzPES71y";

#[test]
fn basic_over_tls_with_a_ca_of_its_own() {
    require!(program().is_some(), "docker-registry");
    let env = TestEnv::alone();
    let tls = certificates(&env);
    write(tls.join("htpasswd"), &format!("jane:{HASH}\n"));
    let http = format!("  tls: {{certificate: {0}/cert.pem, key: {0}/key.pem}}\n", tls.display());
    let server = Server::start_with(&env, &http, &format!("auth: {{htpasswd: {{realm: x, path: {}/htpasswd}}}}\n", tls.display()));
    let target = format!("docker://{}", server.reference("b:v1"));
    skopeo(&env, ["copy", "-q", "--dest-tls-verify=false", "--dest-creds", "jane:secret word", &layout("busybox"), &target]);
    let reference = server.reference("b:v1");
    let settings = env.config().join("hamper/registries.toml");
    // The certificate is of nobody whom the system trusts.
    write(settings.clone(), &format!("[registries.\"{}\"]\ninsecure = false\n", server.host()));
    pull(&env, &reference).code(1).told(&[&server.host(), "certificate", "hint: ", "ca = "]);
    // And one that is spoken to in plain says no more than that it does not understand.
    write(settings.clone(), &format!("[registries.\"{}\"]\ninsecure = true\n", server.host()));
    pull(&env, &reference).code(1).told(&[&server.host(), "status 400", "insecure = false"]);
    write(settings.clone(), &format!("[registries.\"{}\"]\nca = \"ca.pem\"\n", server.host()));
    pull(&env, &reference).code(1).told(&["ca.pem"]);
    fs::copy(tls.join("ca.pem"), env.config().join("hamper/ca.pem")).expect("copy");
    pull(&env, &reference).code(1).told(&["status 401", &format!("hamper login {}", server.host())]);
    let login = |password: &str| env.hamper(["login", &server.host(), "-u", "jane", "--password-stdin"]).stdin(password).output().any();
    login("wrong\n").code(1).told(&["cannot log in as jane", "status 401"]);
    assert!(!docker_config(&env).exists());
    login("secret word\n").code(0);
    assert_eq!(fs::metadata(docker_config(&env)).expect("file").permissions().mode() & 0o777, 0o600);
    pull(&env, &reference).code(0);
    env.hamper(["logout", &server.host()]).output().code(0);
    assert!(!fs::read_to_string(docker_config(&env)).expect("file").contains(&server.host()));
    pull(&env, &reference).code(1).told(&["status 401"]);
    // By the environment as well, instead of the settings.
    write(settings, &format!("[registries.\"{}\"]\ninsecure = false\n", server.host()));
    let by = |name: &str, value: &Path| env.hamper(["image", "pull", &reference]).env(name, value).output().code(1);
    let _ = by("SSL_CERT_FILE", &tls.join("ca.pem")).told(&["status 401"]);
    let _ = by("SSL_CERT_FILE", &tls.join("key.pem")).told(&["key.pem", "no certificate"]);
    // A directory of certificates, other files and links to nothing among them.
    let certificates = env.directory("certificates");
    std::os::unix::fs::symlink("/nowhere", certificates.join("dangling.pem")).expect("link");
    fs::write(certificates.join("README"), "no certificate").expect("file");
    let _ = by("SSL_CERT_DIR", &certificates).told(&["certificate", "ca = "]);
    fs::copy(tls.join("ca.pem"), certificates.join("4f2a.0")).expect("copy");
    let _ = by("SSL_CERT_DIR", &certificates).told(&["status 401"]);
    let two = PathBuf::from(format!("/nowhere:{}", certificates.display()));
    let _ = by("SSL_CERT_DIR", &two).told(&["status 401"]);
    // And where podman looks for those of one registry.
    pull(&env, &reference).code(1).told(&["certificate"]);
    let own = env.config().join("containers/certs.d").join(server.host());
    fs::create_dir_all(&own).expect("directory");
    fs::copy(tls.join("ca.pem"), own.join("ca.crt")).expect("copy");
    pull(&env, &reference).code(1).told(&["status 401"]);
    // A push goes the same ways.
    env.hamper(["login", &server.host(), "-u", "jane", "--password-stdin"]).stdin("secret word").output().code(0);
    env.hamper(["image", "load", &layout("busybox"), "--name", "b:1"]).output().code(0);
    env.hamper(["image", "push", "b:1", &server.reference("pushed:v1")]).output().code(0);
    env.hamper(["logout", &server.host()]).output().code(0);
    env.hamper(["image", "push", "b:1", &server.reference("pushed:v2")]).output().code(1).told(&["status 401", "hamper login"]);
}

/// A registry that wants tokens, and the server that gives them to `jane`, or to everybody.
fn token_registry(public: bool) -> (Faulty, Faulty) {
    let issued = AtomicUsize::new(0);
    let tokens = Faulty::serve("busybox", move |asked: &Asked, _| {
        let good = match (asked.method.as_str(), asked.header("authorization")) {
            ("GET", None) => public,
            ("GET", Some(header)) => header == "Basic amFuZTpwdw==",
            _ => String::from_utf8_lossy(&asked.body).contains("refresh_token=identity%2Ftoken"),
        };
        let scoped = asked.path.contains("scope=repository%3Ax%3Apull") || asked.method == "POST";
        Some(match good && scoped {
            true => {
                let number = issued.fetch_add(1, Ordering::Relaxed);
                Reply::new(
                    200,
                    json!({ "token": format!("t{number}"), "access_token": format!("t{number}"), "expires_in": 60 }).to_string(),
                )
            }
            false => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#),
        })
    });
    let realm = format!("http://{}/token", tokens.host());
    let registry = Faulty::serve("busybox", move |asked: &Asked, before| {
        // Each token is good for one request of a path: the next one has to be fresh.
        let good = asked.header("authorization").is_some_and(|header| header.starts_with("Bearer t")) && before > 0;
        let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:x:pull\"");
        (!good).then(|| Reply::new(401, "").header("www-authenticate", challenge))
    });
    (registry, tokens)
}

#[test]
fn tokens_are_had_from_the_token_server() {
    let (registry, tokens) = token_registry(true);
    pull(&TestEnv::alone(), &registry.reference()).code(0);
    assert!(tokens.asked().iter().all(|one| one.path.starts_with("/token?") && one.path.contains("service=reg")), "{:?}", tokens.asked());
    assert!(tokens.asked().iter().all(|one| one.header("authorization").is_none()));

    let (registry, tokens) = token_registry(false);
    let env = TestEnv::alone();
    pull(&env, &registry.reference()).code(1).told(&[&tokens.host(), "cannot get a token", "status 401", "who are you", "hamper login"]);
    write(docker_config(&env), &json!({ "auths": { registry.host(): { "auth": "amFuZTpwdw==" } } }).to_string());
    pull(&env, &registry.reference()).code(0);
    // The registry itself never learns the password.
    assert!(registry.asked().iter().all(|one| one.header("authorization").is_none_or(|header| header.starts_with("Bearer "))));

    let (registry, tokens) = token_registry(false);
    let env = TestEnv::alone();
    write(docker_config(&env), &json!({ "auths": { registry.host(): { "identitytoken": "identity/token" } } }).to_string());
    pull(&env, &registry.reference()).code(0);
    assert!(tokens.asked().iter().all(|one| one.method == "POST"));
}

/// A token as distribution's `spec/auth/jwt.md` has it, signed by the key in `tls`, for what the scope asks.
fn signed(tls: &Path, scope: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let certificate = fs::read_to_string(tls.join("cert.pem")).expect("certificate");
    let der: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let mut parts = scope.split(':');
    let (kind, name, actions) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
    let access: Vec<Value> =
        name.map(|name| json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() })).into_iter().collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_secs();
    let claims =
        json!({ "iss": "test", "sub": "jane", "aud": "reg", "exp": now + 60, "nbf": now - 60, "iat": now, "jti": "1", "access": access });
    let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let input = tls.join(format!("token-{}", crate::support::unique()));
    fs::write(&input, &text).expect("token");
    let out = std::process::Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(tls.join("key.pem")).arg(&input).output();
    format!("{text}.{}", encode(&out.expect("openssl").stdout))
}

#[test]
fn debians_registry_takes_what_the_token_server_gives() {
    require!(program().is_some(), "docker-registry");
    let env = TestEnv::alone();
    let tls = certificates(&env);
    let key = tls.clone();
    let tokens = Faulty::serve_content(super::faulty::Content::new(), move |asked: &Asked, _| {
        let scope = asked.path.split("scope=").nth(1).unwrap_or_default().split('&').next().unwrap_or_default();
        let scope = scope.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/");
        // Anybody may read what is public.
        let known = asked.header("authorization") == Some("Basic amFuZTpwdw==");
        Some(match known || scope == "repository:public:pull" {
            true => Reply::new(200, json!({ "token": signed(&key, &scope) }).to_string()),
            false => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#),
        })
    });
    let token = format!("realm: http://{}/token, service: reg, issuer: test, rootcertbundle: {}/ca.pem", tokens.host(), tls.display());
    let server = Server::start_with(&env, "", &format!("auth: {{token: {{{token}}}}}\n"));
    let push = |name: &str| env.hamper(["image", "--map", "single", "push", "b:1", &server.reference(name)]).output().any();
    env.hamper(["image", "--map", "single", "load", &layout("busybox"), "--name", "b:1"]).output().code(0);
    push("public:v1").code(1).told(&[&tokens.host(), "cannot get a token", "status 401", "who are you", "hamper login"]);
    let login = |password: &str| env.hamper(["login", &server.host(), "-u", "jane"]).stdin(password).output().any();
    login("wrong").code(1).told(&["status 401"]);
    login("pw").code(0);
    let digest = push("public:v1").code(0).stdout;
    assert_eq!(push("team/own:v1").code(0).stdout, digest);
    assert!(tokens.asked().iter().any(|one| one.path.contains("scope=repository%3Apublic%3Apull%2Cpush")), "{:?}", tokens.asked());
    let stranger = TestEnv::alone();
    assert_eq!(pull(&stranger, &server.reference("public:v1")).code(0).stdout, digest);
    pull(&stranger, &server.reference("team/own:v1")).code(1).told(&[&tokens.host(), "status 401", "hamper login"]);
    let jane = TestEnv::alone();
    write(docker_config(&jane), &fs::read_to_string(docker_config(&env)).expect("file"));
    assert_eq!(pull(&jane, &server.reference("team/own:v1")).code(0).stdout, digest);
}

#[test]
fn a_token_server_is_not_asked_in_plain_for_a_registry_with_tls() {
    // Seen from a registry on plain HTTP that is not loopback's it would be another matter; here the realm is no address at all.
    for realm in ["ftp://localhost/token", "http://user@localhost/token", "http://example.invalid:1/"] {
        let registry =
            Faulty::serve("busybox", move |_, _| Some(Reply::new(401, "").header("www-authenticate", format!("Bearer realm=\"{realm}\""))));
        let seen = pull(&TestEnv::alone(), &registry.reference()).code(1);
        assert!(seen.stderr.contains("cannot get a token"), "{}", seen.stderr);
    }
}

/// A registry on loopback is spoken to in plain, which says nothing of the host that it names.
#[test]
fn a_password_goes_in_plain_to_nobody_but_loopback() {
    let env = TestEnv::alone();
    let registry = Faulty::serve("busybox", |_, _| {
        Some(Reply::new(401, "").header("www-authenticate", "Bearer realm=\"http://192.0.2.1:9/token\",service=\"x\""))
    });
    write(docker_config(&env), &json!({ "auths": { registry.host(): { "auth": "amFuZTpwdw==" } } }).to_string());
    pull(&env, &registry.reference()).code(1).told(&["it names `http://192.0.2.1:9/token` for that"]);
}

#[test]
fn what_was_logged_in_is_what_is_used() {
    let registry = basic_registry();
    let env = TestEnv::alone();
    // podman's file is asked before Docker's, and has an old password.
    let file = env.root().join("run/containers/auth.json");
    write(file.clone(), &json!({ "auths": { registry.host(): { "auth": "amFuZTp4" } } }).to_string());
    pull(&env, &registry.reference()).code(1).told(&["401"]);
    let login = env.hamper(["login", &registry.host(), "-u", "jane"]).stdin("pw").output();
    login.code(0).told(&[&file.display().to_string()]);
    pull(&env, &registry.reference()).code(0);
}

/// A registry for which `jane` and `pw` are good.
fn basic_registry() -> Faulty {
    Faulty::serve("busybox", |asked: &Asked, _| {
        let good = asked.header("authorization") == Some("Basic amFuZTpwdw==");
        (!good).then(|| Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""))
    })
}

#[test]
fn every_file_of_credentials_is_read_in_order() {
    let registry = basic_registry();
    let good = json!({ "auths": { registry.host(): { "auth": "amFuZTpwdw==" } } }).to_string();
    let bad = json!({ "auths": { registry.host(): { "auth": "amFuZTp4" } } }).to_string();
    type Place = fn(&TestEnv) -> PathBuf;
    let places: [Place; 3] =
        [|env| env.root().join("run/containers/auth.json"), |env| env.config().join("containers/auth.json"), docker_config];
    for (index, place) in places.iter().enumerate() {
        let env = TestEnv::alone();
        pull(&env, &registry.reference()).code(1);
        write(place(&env), &good);
        for later in &places[index + 1..] {
            write(later(&env), &bad);
        }
        pull(&env, &registry.reference()).code(0);
    }
    let env = TestEnv::alone();
    write(places[0](&env), &bad);
    write(env.root().join("mine.json"), &good);
    env.hamper(["image", "pull", &registry.reference()]).env("REGISTRY_AUTH_FILE", env.root().join("mine.json")).output().code(0);
    // One that cannot be read is not passed over.
    write(places[0](&env), "{");
    pull(&env, &registry.reference()).code(1).told(&["auth.json"]);
}

/// A helper program that keeps one password in a file.
fn helper(env: &TestEnv, name: &str, body: &str) -> String {
    let bin = env.directory("bin");
    let path = bin.join(format!("docker-credential-{name}"));
    let text = format!("#!/bin/sh\nkept={}\n{body}\n", env.root().join(format!("kept-{name}")).display());
    fs::write(&path, text).expect("helper");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    format!("{}:/usr/bin:/bin", bin.display())
}

const KEEPER: &str = r#"case $1 in
get) read -r server; [ -e "$kept" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$kept";;
store) cat >"$kept";;
erase) rm -f "$kept";;
esac"#;

#[test]
fn helper_programs_give_take_and_forget() {
    let registry = basic_registry();
    for section in ["credHelpers", "credsStore"] {
        let env = TestEnv::alone();
        let path = helper(&env, "keeper", KEEPER);
        let value = if section == "credsStore" { json!("keeper") } else { json!({ registry.host(): "keeper" }) };
        write(docker_config(&env), &json!({ section: value, "psFormat": "kept as it is" }).to_string());
        let call = |arguments: &[&str], input: &str| env.hamper(arguments.iter().copied()).env("PATH", &path).stdin(input).output().any();
        call(&["image", "pull", &registry.reference()], "").code(1).told(&["401", "hamper login"]);
        call(&["login", &registry.host(), "-u", "jane"], "pw").code(0).told(&["docker-credential-keeper"]);
        let kept: Value = serde_json::from_slice(&fs::read(env.root().join("kept-keeper")).expect("kept")).expect("JSON");
        assert_eq!(kept, json!({ "ServerURL": registry.host(), "Username": "jane", "Secret": "pw" }));
        let file = fs::read_to_string(docker_config(&env)).expect("file");
        assert!(!file.contains("pw") && file.contains("kept as it is"));
        call(&["image", "pull", &registry.reference()], "").code(0);
        call(&["logout", &registry.host()], "").code(0);
        assert!(!env.root().join("kept-keeper").exists());
    }
}

/// Who logs out relies on it that nothing is kept.
#[test]
fn a_helper_that_does_not_forget_is_told() {
    let env = TestEnv::alone();
    write(docker_config(&env), r#"{"credHelpers": {"r.example:5000": "locked"}}"#);
    for (body, code, word) in [
        ("echo 'the keychain is locked'; exit 1", 1, "the keychain is locked"),
        ("exit 1", 1, "it says nothing"),
        ("echo 'credentials not found in native keychain'; exit 1", 0, "nothing was known"),
    ] {
        let path = helper(&env, "locked", body);
        let seen = env.hamper(["logout", "r.example:5000"]).env("PATH", &path).output().code(code).told(&[word]);
        assert!(!seen.stderr.contains("logged out") && (code == 0 || seen.stderr.contains("hint: ")), "{}", seen.stderr);
    }
    env.hamper(["logout", "::::"]).output().code(2).told(&["is no registry's name", "hint: "]);
}

/// Tokens that serve as passwords have some kilobytes, and a login takes 64 KiB.
#[test]
fn a_helper_keeps_a_long_password() {
    let long = "\"x".repeat(32 << 10);
    let wanted = format!("Basic {}", STANDARD.encode(format!("jane:{long}")));
    let registry = Faulty::serve("busybox", move |asked, _| {
        (asked.header("authorization") != Some(&wanted)).then(|| Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""))
    });
    let env = TestEnv::alone();
    let path = helper(&env, "keeper", KEEPER);
    write(docker_config(&env), &json!({ "credsStore": "keeper" }).to_string());
    let login = env.hamper(["login", &registry.host(), "-u", "jane"]).env("PATH", &path).stdin(&long).output();
    login.code(0).told(&["docker-credential-keeper"]);
    env.hamper(["image", "pull", &registry.reference()]).env("PATH", &path).output().code(0);
}

/// What is told of a refusal depends on what was offered.
#[test]
fn a_password_that_is_refused_is_told_with_its_place() {
    let registry = basic_registry();
    let env = TestEnv::alone();
    let host = registry.host();
    env.hamper(["login", &host, "-u", "jane"]).stdin("wrong").output().code(1).told(&["401", "the name or the password is wrong"]);
    write(docker_config(&env), &json!({ "auths": { &host: { "auth": "amFuZTp3cm9uZw==" } } }).to_string());
    let again = format!("hamper logout {host}; hamper login {host}");
    pull(&env, &registry.reference()).code(1).told(&["401", &docker_config(&env).display().to_string(), "is refused", &again]);
    // The control: nothing is known.
    let seen = pull(&TestEnv::alone(), &registry.reference()).code(1).told(&["401", "if it is not public"]);
    assert!(!seen.stderr.contains("is refused"), "{}", seen.stderr);
    // So it is where a token server refuses.
    let tokens = Faulty::serve("busybox", |_, _| Some(Reply::new(401, "")));
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.host());
    let registry = Faulty::serve("busybox", move |_, _| Some(Reply::new(401, "").header("www-authenticate", realm.clone())));
    let host = registry.host();
    write(docker_config(&env), &json!({ "auths": { &host: { "auth": "amFuZTp3cm9uZw==" } } }).to_string());
    pull(&env, &registry.reference()).code(1).told(&["get a token", "is refused", &format!("hamper logout {host}")]);
    // A login that nobody here can do is named.
    let registry = Faulty::serve("busybox", |_, _| Some(Reply::new(401, "").header("www-authenticate", "Negotiate")));
    pull(&env, &registry.reference()).code(1).told(&["Negotiate", "Basic and Bearer", "hint: "]);
}

#[test]
fn a_proxy_that_fails_is_told_and_its_password_is_not() {
    let refuses = Faulty::serve("busybox", |_, _| Some(Reply::new(407, "")));
    let nobody = format!("localhost:{}", super::server::free_port());
    let env = TestEnv::alone();
    write(env.config().join("hamper/registries.toml"), "retries = 0\n");
    for proxy in [refuses.host(), nobody, "proxy.invalid:8080".to_owned()] {
        let seen = env.hamper(["image", "pull", "r.invalid:5000/x"]).env("HTTPS_PROXY", format!("http://jane:s3cret@{proxy}")).output();
        let seen =
            seen.code(1).told(&["r.invalid:5000: cannot", &format!("by the proxy {proxy}"), "hint: ", "NO_PROXY=\"$NO_PROXY,r.invalid\""]);
        assert!(!seen.stderr.contains("s3cret"), "{}", seen.stderr);
    }
}

#[test]
fn settings_beyond_bounds_are_told_with_their_key() {
    let env = TestEnv::alone();
    for (text, word) in [
        ("stall_timeout = 9223372036854775807", "at most 86400"),
        ("helper_timeout = 86401", "at most 86400"),
        ("retries = 101", "at most 100"),
    ] {
        write(env.config().join("hamper/registries.toml"), text);
        let key = text.split(' ').next().expect("key");
        pull(&env, "localhost:1/x").code(1).told(&["registries.toml", key, word, "hint: "]);
    }
}

/// A helper may ask the user on the terminal, and what is typed there is not shown to anybody else.
#[test]
fn a_helper_asks_on_the_terminal() {
    let registry = basic_registry();
    let env = TestEnv::alone();
    let ask = "read -r server; printf 'passphrase of %s: ' \"$server\" >/dev/tty; read -r secret </dev/tty; \
               printf '{\"Username\": \"jane\", \"Secret\": \"%s\"}' \"$secret\"";
    let path = helper(&env, "asks", ask);
    write(docker_config(&env), &json!({ "credHelpers": { registry.host(): "asks" } }).to_string());
    let line =
        |reference: &str| format!("PATH={path} {} image --map single pull {reference}; echo ended $?", crate::support::hamper().display());
    let mut pty = crate::support::pty::Pty::new();
    pty.start(&line(&registry.reference()), &env);
    pty.expect(&format!("passphrase of {}: ", registry.host()));
    pty.send("pw\n");
    pty.expect("ended 0");
    // The control: another word is another password.
    let other = TestEnv::alone();
    helper(&other, "asks", ask);
    write(docker_config(&other), &json!({ "credHelpers": { registry.host(): "asks" } }).to_string());
    let mut pty = crate::support::pty::Pty::new();
    pty.start(&line(&registry.reference()), &other);
    pty.expect("passphrase of");
    pty.send("wrong\n");
    pty.expect("401");
    pty.expect("ended 1");
}

/// Whoever ends the prompt gets the terminal back as it was; what was typed so far was not shown.
#[test]
fn a_password_that_is_not_given_leaves_the_terminal_as_it_was() {
    let registry = basic_registry();
    let env = TestEnv::alone();
    let line =
        format!("{} login {} -u jane; echo ended $?; read -r line; echo got $line", crate::support::hamper().display(), registry.host());
    for (typed, ended) in [("sec\u{3}", "ended 130"), ("pw\n", "ended 0")] {
        let mut pty = crate::support::pty::Pty::new();
        let before = pty.settings();
        pty.start(&format!("trap : INT; {line}"), &env);
        pty.expect("Password (not shown):");
        // It is said just before the terminal is quiet.
        assert!(crate::support::within(10.0, || !pty.settings().local_modes.contains(rustix::termios::LocalModes::ECHO)));
        pty.send(typed);
        pty.expect(ended);
        assert_eq!(format!("{before:?}"), format!("{:?}", pty.settings()));
        pty.send("plain\n");
        pty.expect("got plain");
        assert!(!pty.shown().contains("sec"), "{}", pty.shown());
    }
}

#[test]
fn helpers_that_fail_are_told_or_passed_over() {
    let registry = basic_registry();
    let host = registry.host();
    for (body, word) in [("exit 3", "it failed"), ("echo x", "no JSON"), ("sleep 100", "hear from it"), ("yes", "more than")] {
        let env = TestEnv::alone();
        write(env.config().join("hamper/registries.toml"), "helper_timeout = 1\n");
        let path = helper(&env, "bad", body);
        let call = || env.hamper(["image", "pull", &registry.reference()]).env("PATH", &path).output().any();
        // Named for this registry, it matters.
        write(docker_config(&env), &json!({ "credHelpers": { &host: "bad" } }).to_string());
        let seen = call().code(1);
        assert!(seen.took < seconds(20));
        let _ = seen.told(&["docker-credential-bad", word]);
        // The one for all may not be meant.
        let auths = json!({ &host: { "auth": "amFuZTpwdw==" } }).to_string();
        write(env.config().join("containers/auth.json"), &json!({ "credsStore": "bad" }).to_string());
        write(docker_config(&env), &format!("{{\"auths\":{auths}}}"));
        call().code(0).told(&["ignoring", "docker-credential-bad"]);
    }
    let env = TestEnv::alone();
    for name in ["../../bin/sh", "a b", ""] {
        write(docker_config(&env), &json!({ "credHelpers": { &host: name } }).to_string());
        pull(&env, &registry.reference()).code(1).told(&["no name of a credential helper"]);
    }
}

#[test]
fn mirrors_are_asked_first() {
    let (mirror, registry) = (Faulty::serve("busybox", |_, _| None), Faulty::serve("busybox", |_, _| None));
    let dead = format!("localhost:{}", super::server::free_port());
    let env = TestEnv::alone();
    write(
        env.config().join("hamper/registries.toml"),
        &format!("[registries.\"{}\"]\nmirrors = [\"{dead}/cache\", \"{}\"]\n", registry.host(), mirror.host()),
    );
    pull(&env, &registry.reference()).code(0);
    assert!(registry.asked().is_empty() && !mirror.asked().is_empty());
    // By its own name, not the mirror's.
    env.run(&registry.reference()).map("single").args(["--offline"]).probe("exit 4").code(4);
    // A mirror without the image sends to the registry.
    let empty = Faulty::serve("busybox", |_, _| Some(Reply::new(404, "")));
    let env = TestEnv::alone();
    write(
        env.config().join("hamper/registries.toml"),
        &format!("[registries.\"{}\"]\nmirrors = [\"{}\"]\n", registry.host(), empty.host()),
    );
    pull(&env, &registry.reference()).code(0);
    assert!(!empty.asked().is_empty() && !registry.asked().is_empty());
}

/// One that is in trouble costs its tries once, not for each document and layer.
#[test]
fn a_mirror_in_trouble_is_left_out_for_the_rest() {
    let settings = |env: &TestEnv, registry: &Faulty, mirror: &Faulty| {
        let text = format!("retries = 2\n[registries.\"{}\"]\nmirrors = [\"{}\"]\n", registry.host().to_uppercase(), mirror.host());
        write(env.config().join("hamper/registries.toml"), &text);
    };
    let (mirror, registry) = (Faulty::serve("busybox", |_, _| Some(Reply::new(503, ""))), Faulty::serve("busybox", |_, _| None));
    let env = TestEnv::alone();
    settings(&env, &registry, &mirror);
    let _ = pull(&env, &registry.reference()).code(0).told(&["the mirror is not asked again"]);
    assert_eq!(mirror.asked().len(), 3, "{:?}", mirror.asked());
    // So does one that sends something else, and one that breaks every blob off early.
    let nonsense = || Reply::new(200, vec![b'x'; 1 << 20]);
    for cut in [None, Some(100)] {
        let sick = move |asked: &Asked, _| asked.is_blob().then(|| Reply { cut, ..nonsense() });
        let (mirror, registry) = (Faulty::serve("busybox", sick), Faulty::serve("busybox", |_, _| None));
        let env = TestEnv::alone();
        settings(&env, &registry, &mirror);
        let _ = pull(&env, &registry.reference()).code(0).told(&["the mirror is not asked again"]);
        assert!(mirror.asked().len() < 8 && !registry.asked().is_empty(), "{:?}", mirror.asked());
    }
}

/// Whatever a mirror sends that is not what was asked for: the registry is asked, and the mirror's host is told.
#[test]
fn a_mirror_with_wrong_content_is_left_out() {
    let whole = super::faulty::content("busybox");
    let layer = super::faulty::largest(&whole).0;
    let pinned = whole.keys().find(|path| path.contains("/manifests/sha256:")).expect("manifest").clone();
    let is_config = |path: &&String| path.contains("/blobs/") && whole[*path].1.windows(8).any(|part| part == b"diff_ids");
    let config = whole.keys().find(is_config).expect("config").clone();
    let tag = "/v2/x/manifests/v1".to_owned();
    let digest = pinned.rsplit_once('/').expect("digest").1.to_owned();
    let end = |bytes: &[u8]| [&bytes[..bytes.len() - 3], b"xyz"].concat();
    let middle = |bytes: &[u8]| [&bytes[..bytes.len() / 2], b"xyz", &bytes[bytes.len() / 2 + 3..]].concat();
    let page = |_: &[u8]| b"<html>welcome</html>".to_vec();
    let shorter = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    type Wrong<'w> = (&'w String, &'w dyn Fn(&[u8]) -> Vec<u8>);
    let wrongs: [Wrong<'_>; 8] = [
        (&layer, &end),
        (&layer, &middle),
        (&layer, &shorter),
        (&config, &end),
        (&config, &shorter),
        (&tag, &page),
        (&pinned, &middle),
        (&pinned, &page),
    ];
    for (path, wrong) in wrongs {
        let mut content = whole.clone();
        let entry = content.get_mut(path).expect("content");
        entry.1 = wrong(&entry.1);
        let mirror = Faulty::serve_content(content, |_, _| None);
        let registry = Faulty::serve("busybox", |_, _| None);
        let env = TestEnv::alone();
        let settings = format!("[registries.\"{}\"]\nmirrors = [\"{}\"]\n", registry.host(), mirror.host());
        write(env.config().join("hamper/registries.toml"), &settings);
        let reference = if *path == pinned { format!("{}/x@{digest}", registry.host()) } else { registry.reference() };
        let seen = pull(&env, &reference).code(0);
        let _ = seen.told(&[&format!("ignoring: {}: cannot", mirror.host()), "the mirror is not asked again"]);
        assert!(mirror.asked().iter().any(|one| one.path == *path) && registry.asked().iter().any(|one| one.path == *path), "{path}");
        env.run(&reference).map("single").args(["--offline"]).probe("exit 4").code(4);
    }
}

/// Below a mirror's prefix, credentials are looked for by the name that the image has there.
#[test]
fn a_mirror_has_credentials_of_its_prefix() {
    let files = super::faulty::content("busybox");
    let rule = move |asked: &Asked, _| {
        let path = asked.path.strip_prefix("/v2/cache/hub").map(|rest| format!("/v2{rest}"))?;
        let refused = || Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\"");
        if asked.header("authorization") != Some("Basic amFuZTpwdw==") {
            return Some(refused());
        }
        files.get(&path).map(|(kind, bytes)| Reply::new(200, bytes.clone()).header("content-type", kind.clone()))
    };
    let (mirror, registry) = (Faulty::serve("busybox", rule), Faulty::serve("busybox", |_, _| Some(Reply::new(404, ""))));
    let (env, other) = (TestEnv::alone(), TestEnv::alone());
    for (env, prefix) in [(&env, "cache/hub"), (&other, "cache/other")] {
        let settings = format!("[registries.\"{}\"]\nmirrors = [\"{}/cache/hub\"]\n", registry.host(), mirror.host());
        write(env.config().join("hamper/registries.toml"), &settings);
        let auths = json!({ format!("{}/{prefix}", mirror.host()): { "auth": "amFuZTpwdw==" } });
        write(docker_config(env), &json!({ "auths": auths }).to_string());
    }
    pull(&env, &registry.reference()).code(0);
    // The control: those of another prefix are for something else.
    pull(&other, &registry.reference()).code(1).told(&["404"]);
}

/// A setting that nothing would ever match is no setting.
#[test]
fn mirrors_and_registries_that_are_none_are_told() {
    let env = TestEnv::alone();
    let told = |text: &str, words: &[&str]| {
        write(env.config().join("hamper/registries.toml"), text);
        let _ = pull(&env, "registry.invalid/x").code(1).told(words).told(&["registries.toml", "line ", "HOST[:PORT]", "hint: "]);
    };
    for mirror in ["http://mirror.invalid", "", "jane@mirror.invalid", "mirror.invalid:99999", "mirror.invalid/../x", "mirror.invalid/a?b"]
    {
        told(&format!("retries = 1\n[registries.\"docker.io\"]\nmirrors = [\"{mirror}\"]\n"), &["is no mirror"]);
    }
    for registry in ["https://registry.invalid", "", "registry.invalid/v2"] {
        told(&format!("[registries.\"{registry}\"]\ninsecure = true\n"), &["is no registry"]);
    }
}

/// What is no name is told as that, with the form of one, and nobody is asked.
#[test]
fn names_that_are_none_are_told_with_the_form_of_one() {
    let env = TestEnv::alone();
    let digest = "x@sha256:12";
    for reference in ["x:", "X", "x:tag:tag", digest, "x@y", "http://localhost/x", "localhost:99999/x", "", "a//b", "x y", "x/../y"] {
        pull(&env, reference).code(1).told(&["`", "hint: ", "[REGISTRY/]NAME[:TAG]"]);
    }
    for registry in ["http://x y/", "localhost:99999", "a/b", "", "x@y"] {
        let seen = env.hamper(["login", registry, "-u", "jane"]).stdin("pw").output().code(2);
        let _ = seen.told(&["is no registry's name", "hint: "]);
    }
    // Files and variables that are none, before anybody is asked.
    let by = |name: &str, value: &str, words: &[&str]| {
        let _ = env.hamper(["image", "pull", "registry.invalid/x"]).env(name, value).output().code(1).told(words);
    };
    by("SSL_CERT_FILE", "/nowhere/ca.pem", &["/nowhere/ca.pem", "No such file", "hint: "]);
    by("HTTPS_PROXY", "::", &["proxy", "hint: "]);
    write(docker_config(&env), r#"{"credHelpers": {"localhost:1": "is-not-there"}}"#);
    // What is elsewhere is erased all the same; a host's name is one in any case.
    write(env.config().join("containers/auth.json"), r#"{"auths": {"LocalHost:1": {"auth": "YTpi"}}}"#);
    let seen = env.hamper(["logout", "localhost:1"]).output().code(1);
    let _ = seen.told(&["docker-credential-is-not-there", "hint: try it: ", "erased from", "auth.json"]);
    let left = fs::read_to_string(env.config().join("containers/auth.json")).expect("file");
    assert!(!left.contains("YTpi"), "{left}");
}

#[test]
fn settings_with_unknown_keys_are_refused() {
    let env = TestEnv::alone();
    let settings = env.config().join("hamper/registries.toml");
    for text in ["[registries.x]\nca_file = 1\n", "x = 1\n", "[registries\n"] {
        write(settings.clone(), text);
        pull(&env, "localhost:1/x").code(1).told(&["registries.toml"]);
    }
}

#[test]
fn a_proxy_is_used_but_for_loopback_and_no_proxy() {
    let proxy = Faulty::serve("busybox", |_, _| Some(Reply::new(403, "")));
    let env = TestEnv::alone();
    write(env.config().join("hamper/registries.toml"), "retries = 0\n");
    let address = format!("http://{}", proxy.host());
    let call = |reference: &str, no: &str| {
        env.hamper(["image", "pull", reference]).env("HTTPS_PROXY", &address).env("NO_PROXY", no).output().code(1)
    };
    let _ = call("registry.invalid/x", "");
    let asked = proxy.asked();
    assert!(asked.len() == 1 && asked[0].method == "CONNECT" && asked[0].path == "registry.invalid:443", "{asked:?}");
    let _ = call("registry.invalid/x", "other,.invalid");
    let _ = call("localhost:1/x", "");
    assert_eq!(proxy.asked().len(), 1);
}
