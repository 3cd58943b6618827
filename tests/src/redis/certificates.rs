//! A certificate for `localhost`, signed by an authority of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use super::in_folder;

/// The file with the authority's certificate.
pub const AUTHORITY: &str = "ca.pem";

/// Makes `ca.pem`, `server.pem` and `server.key` in this folder.
pub fn make(folder: &Path) {
    let file = |name| in_folder(folder, name);
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.join("names"), names).expect("it can be written");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut authority = openssl();
    authority.args(["req", "-x509", "-days", "2", "-subj", "/CN=fencepost test authority"]).args(key);
    run(authority.args(["-keyout", &file("ca.key"), "-out", &file(AUTHORITY)]));
    let mut request = openssl();
    request.args(["req", "-new", "-subj", "/CN=localhost"]).args(key);
    run(request.args(["-keyout", &file("server.key"), "-out", &file("request")]));
    let mut sign = openssl();
    sign.args(["x509", "-req", "-days", "2", "-in", &file("request"), "-extfile", &file("names")]);
    sign.args(["-CA", &file(AUTHORITY), "-CAkey", &file("ca.key"), "-CAcreateserial"]);
    run(sign.args(["-out", &file("server.pem")]));
}

fn openssl() -> Command {
    let mut command = Command::new("openssl");
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("this test needs OpenSSL: install it (Debian: apt-get install openssl)");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
