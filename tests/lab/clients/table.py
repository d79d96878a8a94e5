"""The client programs: what of them is installed by what, and how each is asked for pages.

The 44 of the project's measurements of proxy variables, and browsers. A command is of sh(1), in a home of its own;
$BOTH are a page and a TLS page.
"""

import dataclasses
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
INSTALLED = HERE.parents[2] / "target/clients"
CA = "/run/appfw-lab/ca.pem"
BOTH = "http://web.test/ https://tls.test/"
# Whom to trust, for those that don't ask the system; nothing here is about the network.
TRUST = {name: CA for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"]}

APT, PIP, NPM, CARGO = "apt", "pip", "npm", "cargo"


@dataclasses.dataclass(frozen=True)
class Client:
    """One program. `needs`: a program or file that is there if it is installed. `shows`: whether it writes out what
    the pages hold; others say what is wrong with them. `ignores`: that no variable reaches it. `plain`:
    whether it loads pages without TLS, too. `fails`: why it is known not to work."""

    name: str
    source: str
    needs: str
    command: str
    shows: bool = True
    ignores: bool = False
    plain: bool = True
    fails: str = ""


def python(name, text, *, packages="plain", source=PIP, **more):
    """The program's loop over the addresses is its own."""
    interpreter = INSTALLED / packages / "bin/python"
    return Client(name, source, str(interpreter), f"{interpreter} -c '{text}' $BOTH", **more)


def node(name, text, source=NPM, **more):
    """A module; `url` is each of the addresses in turn."""
    folder = INSTALLED / "node"
    script = f"for (const url of process.argv.slice(1)) {{ {text} }}"
    needs = str(folder / "node_modules") if source == NPM else "node"
    imports = f"ln -s {folder}/node_modules; " if source == NPM else ""
    return Client(name, source, needs, f"{imports}node --input-type=module -e '{script}' -- $BOTH", **more)


def java(name):
    return Client(name, APT, "java", f"java {HERE}/{name.partition(' ')[2]}.java $BOTH", ignores=True)


def rust(name, program, features=""):
    path = INSTALLED / "rust" / features / program
    return Client(name, CARGO, str(path), f"{path} $BOTH")


def each(name, source, command, *, needs=None, **more):
    """One that is run for each address."""
    needs = needs or command.split()[0]
    return Client(name, source, needs, f"for url in $BOTH; do {command}; done", **more)


GET = "for url in sys.argv[1:]: print({})"
REQUESTS = "import sys, requests\n" + GET.format("requests.get(url).text")
HTTPX = "import sys, httpx\n" + GET.format("httpx.get(url).text")
AIOHTTP = """import asyncio, sys, aiohttp
async def main():
    async with aiohttp.ClientSession({}) as session:
        for url in sys.argv[1:]:
            async with session.get(url) as answer: print(await answer.text())
asyncio.run(main())"""
NODE_HTTP = """const { default: http } = await import(url.split(":")[0]);
await new Promise((done, failed) => http.get(url, (answer) =>
    answer.on("data", (text) => console.log(String(text))).on("end", done)).on("error", failed));"""
PROXY_AGENT = """const { ProxyAgent } = await import("proxy-agent");
""" + NODE_HTTP.replace("http.get(url,", "http.get(url, { agent: new ProxyAgent() },")
PHP_CURL = """foreach (array_slice($argv, 1) as $url) {
    $curl = curl_init($url); curl_setopt($curl, CURLOPT_RETURNTRANSFER, true); echo curl_exec($curl); }"""
PHP_STREAM = "foreach (array_slice($argv, 1) as $url) echo file_get_contents($url);"
RUBY = "ARGV.each { |url| puts Net::HTTP.get(URI(url)) }"
PERL = "for (@ARGV) { my $answer = LWP::UserAgent->new->get($_); print $answer->decoded_content }"
YT_DLP = INSTALLED / "plain/bin/yt-dlp"
PIP_PROGRAM = INSTALLED / "plain/bin/pip"

CLIENTS = [
    Client("curl", APT, "curl", "curl -sS $BOTH"),
    Client("wget", APT, "wget", "wget -q -O - $BOTH"),
    Client("wget2", APT, "wget2", "wget2 -q -O - $BOTH"),
    # What answers is no repository, which git says when it has seen the answer.
    each("git over http", APT, "git ls-remote $url", shows=False),
    python("Python urllib", "import sys, urllib.request\n" + GET.format("urllib.request.urlopen(url).read()"),
           source=APT),
    python("Python requests with PySocks", REQUESTS, packages="socks"),
    python("Python requests", REQUESTS),
    python("Python httpx with socksio", HTTPX, packages="socks"),
    python("Python httpx", HTTPX),
    python("Python aiohttp", AIOHTTP.format(""), ignores=True),
    python("Python aiohttp with trust_env", AIOHTTP.format("trust_env=True")),
    python("Python urllib3", "import sys, urllib3\n" + GET.format("urllib3.request(\"GET\", url).data"), ignores=True),
    each("pip", PIP, f"{PIP_PROGRAM} download -q --no-cache-dir --retries 0 --trusted-host web.test -i $url nothing",
         needs=str(PIP_PROGRAM), shows=False),
    each("yt-dlp", PIP, f"{YT_DLP} --no-cache-dir --compat-options no-certifi $url", needs=str(YT_DLP), shows=False),
    node("Node fetch", "console.log(await (await fetch(url)).text())", source=APT, ignores=True),
    node("Node http", NODE_HTTP, source=APT, ignores=True),
    each("npm", APT, "npm view nothing --fetch-retries=0 --registry=$url", needs="npm", shows=False),
    node("axios", """console.log((await (await import("axios")).default.get(url)).data)"""),
    node("got", """console.log((await (await import("got")).default(url)).body)""", ignores=True),
    node("undici EnvHttpProxyAgent", """const { fetch, EnvHttpProxyAgent } = await import("undici");
        console.log(await (await fetch(url, { dispatcher: new EnvHttpProxyAgent() })).text())"""),
    node("proxy-agent", PROXY_AGENT),
    Client("Go net/http, static", APT, str(INSTALLED / "go"), f"{INSTALLED}/go $BOTH"),
    rust("reqwest with socks", "reqwest", "socks"),
    rust("ureq with socks", "ureq", "socks"),
    rust("reqwest", "reqwest"),
    java("Java URL"),
    java("Java HttpClient"),
    java("Java Socket"),
    each("aria2", APT, "aria2c -q --allow-overwrite --out=page $url && cat page", needs="aria2c"),
    each("lynx", APT, "lynx -source $url"),
    each("w3m", APT, "w3m -dump_source $url"),
    each("elinks", APT, "elinks -no-home 1 -source $url"),
    each("links2", APT, "links2 -source $url", ignores=True),
    each("ffmpeg", APT, "ffmpeg -loglevel error -i $url -f null -", shows=False),
    each("mpv", APT, "mpv --no-config --ytdl=no --vo=null --ao=null $url", shows=False),
    # What fetches is gvfsd, a service of the session's bus: here a bus of its own.
    each("gio", APT, "dbus-run-session -- gio cat $url", needs="/usr/libexec/gvfsd-http"),
    each("dnf", APT, "dnf -q --setopt=cachedir=$HOME/dnf --repofrompath=lab,$url --repo=lab makecache", shows=False),
    Client("PHP curl", APT, "php", f"php -r '{PHP_CURL}' -- $BOTH"),
    Client("PHP streams", APT, "php", f"php -r '{PHP_STREAM}' -- $BOTH", ignores=True),
    Client("Ruby Net::HTTP", APT, "ruby", f"ruby -rnet/http -e '{RUBY}' $BOTH"),
    Client("Perl LWP", APT, "perl", f"perl -MLWP::UserAgent -e '{PERL}' $BOTH"),
    each("rclone", APT, "rclone lsf --retries=1 --low-level-retries=1 --config=/dev/null --http-url=$url :http:",
         shows=False),
    Client("gh (TLS alone)", APT, "gh", "GH_ENTERPRISE_TOKEN=none gh api --hostname tls.test /",
           shows=False, plain=False),
    each("apt", APT, "/usr/lib/apt/apt-helper download-file $url page && cat page; rm -f page"),
]

FIREFOX = "timeout 90 firefox-esr --headless --no-remote --profile $HOME/firefox --screenshot $HOME/page.png"
CHROMIUM = "chromium --headless --disable-gpu --no-first-run --disable-quic --user-data-dir=$HOME/chromium --dump-dom"
TRUSTED = f"certutil -A -n lab -t C,, -i {CA} -d"
BROWSERS = [
    Client("Firefox ESR", APT, "firefox-esr", "mkdir firefox; certutil -N --empty-password -d firefox; "
           f"{TRUSTED} firefox; for url in $BOTH; do {FIREFOX} $url; done 2>/dev/null; ls page.png", shows=False),
    Client("Chromium", APT, "chromium", "mkdir -p .pki/nssdb; certutil -N --empty-password -d sql:.pki/nssdb; "
           f"{TRUSTED} sql:.pki/nssdb; for url in $BOTH; do {CHROMIUM} $url; done"),
]
