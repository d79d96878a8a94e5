"""The programs that people run, in the strict wall: each loads a page and a TLS page, by name at the upstream.

For `tests/run.sh --all`, which installs them and sets APPFW_ALL=1; in the lab over this machine's root, where they are.
"""

import os
import shutil
import subprocess

import pytest

from launching import PROXY, SOCKS, run, unique
from world_map import UPSTREAM

CA = "/run/appfw-lab/ca.pem"
PAGES = [("web.test", 80), ("tls.test", 443)]
HOST, _, PORT = PROXY.removeprefix("http://").partition(":")

GO = """package main

import ("io"; "net/http"; "os")

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil { panic(err) }
		io.Copy(os.Stdout, answer.Body)
	}
}
"""
JAVA = """import java.net.URL;

class Fetch {
    public static void main(String[] urls) throws Exception {
        for (String url : urls) new URL(url).openStream().transferTo(System.out);
    }
}
"""
PYTHON = {
    "urllib": "import sys, urllib.request\nfor url in sys.argv[1:]: print(urllib.request.urlopen(url).read())",
    "requests": "import sys, requests\nfor url in sys.argv[1:]: print(requests.get(url).text)",
    "httpx": "import sys, httpx\nfor url in sys.argv[1:]: print(httpx.get(url).text)",
}
BOTH = "http://web.test/ https://tls.test/"
CHROMIUM = "chromium --headless --disable-gpu --no-first-run --disable-quic --user-data-dir=$HOME/chromium --dump-dom"
FIREFOX = "timeout 60 firefox-esr --headless --no-remote --profile $HOME/firefox --screenshot $HOME/page.png"
TRUST = f"certutil -A -n lab -t C,, -i {CA} -d"
CLIENTS = {
    "curl": f"curl -sS --cacert {CA} {BOTH}",
    "wget": f"wget -q -O - --ca-certificate={CA} {BOTH}",
    # What answers is no repository, which git says when it has seen the answer.
    "git": f"for url in {BOTH}; do git -c http.sslCAInfo={CA} ls-remote $url 2>&1 | grep 'not found\\|not valid\\|unexpected'; done",
    "apt": f"for url in {BOTH}; do /usr/lib/apt/apt-helper -o Acquire::https::CaInfo={CA} download-file $url $HOME/page; "
           "cat $HOME/page; done",
    **{name: f"SSL_CERT_FILE={CA} REQUESTS_CA_BUNDLE={CA} /usr/bin/python3 -c '{program}' {BOTH}"
       for name, program in PYTHON.items()},
    "go": f"SSL_CERT_FILE={CA} /usr/local/lib/appfw-lab/fetch {BOTH}",
    "java": "keytool -importcert -noprompt -alias lab -storepass changeit -keystore $HOME/trust "
            f"-file {CA} && java -Djavax.net.ssl.trustStore=$HOME/trust "
            f"-Djavax.net.ssl.trustStorePassword=changeit /usr/local/lib/appfw-lab/Fetch.java {BOTH}",
    "firefox": f"mkdir $HOME/firefox; certutil -N --empty-password -d $HOME/firefox; {TRUST} $HOME/firefox; "
               f"for url in {BOTH}; do {FIREFOX} $url; done 2>/dev/null; ls $HOME/page.png",
    "chromium": f"mkdir -p $HOME/.pki/nssdb; certutil -N --empty-password -d sql:$HOME/.pki/nssdb; "
                f"{TRUST} sql:$HOME/.pki/nssdb; for url in {BOTH}; do {CHROMIUM} $url 2>/dev/null; done",
}
JAVA_OPTIONS = f"-Dhttp.proxyHost={HOST} -Dhttp.proxyPort={PORT} -Dhttps.proxyHost={HOST} -Dhttps.proxyPort={PORT}"


@pytest.fixture(scope="module")
def programs(lab):
    if lab.version != "252":
        pytest.xfail("the clients are installed on this machine, whose systemd is the other one")
    lab.path(CA).write_bytes((lab.directory.parents[1] / "ca/ca.pem").read_bytes())
    folder = lab.path("/usr/local/lib/appfw-lab")
    folder.mkdir()
    (folder / "Fetch.java").write_text(JAVA)
    source = lab.directory / "fetch.go"
    source.write_text(GO)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOCACHE": str(lab.directory / "go")}
    subprocess.run([shutil.which("go"), "build", "-o", folder / "fetch", source], check=True, env=environment)
    return lab


@pytest.mark.parametrize("client", CLIENTS)
def test_client_loads_both_pages_by_name(programs, world, client):
    home = f"/tmp/{unique('home')}"
    script = f"mkdir {home}; export HOME={home}; cd; {CLIENTS[client]}"
    with world.watch() as w:
        done = run(programs, "--via", SOCKS, "--uid", "bob", "--env", f"JAVA_TOOL_OPTIONS={JAVA_OPTIONS}",
                   "sh", "-c", script, timeout=180)
    assert done.returncode == 0, done.stderr.decode()
    asked = w.events(server="socks5", kind="socks")
    assert set(PAGES) <= {(request["name"], request["dport"]) for request in asked}, done.stderr.decode()
    assert all(request["ip"] is None for request in asked)
    served = {(event["server"], event["host"]) for event in w.events(kind="request")}
    assert {("http", "web.test"), ("https", "tls.test")} <= served
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []


def test_ssh_goes_by_a_proxy_command(programs, world):
    proxy = f"ProxyCommand=nc -X connect -x {HOST}:{PORT} %h %p"
    # It would wait for an answer that makes sense.
    command = ["timeout", "5", "ssh", "-o", proxy, "-o", "BatchMode=yes", "-p", "7", "web.test"]
    with world.watch() as w:
        run(programs, "--via", SOCKS, "--uid", "bob", *command, timeout=60)
    asked, = w.events(server="socks5", kind="socks")
    assert (asked["name"], asked["ip"], asked["dport"]) == ("web.test", None, 7)
    # The echo server has seen ssh's own greeting.
    assert w.events(server="echo", kind="accept")
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
