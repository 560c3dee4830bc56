"""Runs under way: the console's view, the page on the loopback interface, and their end."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from helpers.run_folders import make_episode, make_turn, write_lines, write_run

from hiperjax.commands.watch import serve_beside, start_server
from hiperjax.config import ConfigError
from hiperjax.report.console_view import render_line, render_view, seconds_left, sparkline
from hiperjax.report.live import LivePage
from hiperjax.report.page import render_runs
from hiperjax.report.run_data import open_runs, read_runs


def render(runs):
    return render_runs(runs, live=True)


@pytest.fixture
def folder(tmp_path):
    found = write_run(tmp_path / "run", rates=(0.25, 0.5))
    episode = make_episode(1, [make_turn("x")] * 3, task="\x1b[31m\u202eput a mug\n" * 9)
    write_lines(found / "episodes.jsonl", [episode])
    progress = {"phase": "imitation", "since": 1000.0, "updated": 1010.0, "done": 30, "total": 120}
    (found / "progress.json").write_text(json.dumps(progress))
    return found


def test_the_view_fits_the_console(folder):
    (run,) = read_runs([folder])
    lines = render_view(run, now=1012.0)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "imitation    ██████" in text and "30/120, about 28 s left" in text
    assert "1/4" in text and "0.500" in text and "solved" in text and "best" in text
    assert "imitation for 12 s" in text


def test_time_left_follows_the_last_iterations(folder):
    (run,) = read_runs([folder])
    assert seconds_left(run) == 3 * 3.0
    assert "about 9 s left" in render_line(run, now=1012.0)


def test_a_run_that_fell_silent_is_said_to_be(folder):
    (run,) = read_runs([folder])
    assert "silent for" in render_line(run, now=5000.0)


def test_a_view_without_records(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (run,) = read_runs([tmp_path / "run"])
    assert render_view(run, now=0.0)


def test_sparklines_have_a_mark_per_value():
    assert sparkline([0.0, 0.5, 1.0, 7.0]) == "▁▅██"


@pytest.fixture
def server(folder):
    with start_server(LivePage(open_runs([folder]), render), 0) as found:
        yield found


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{server.server_port}"} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_page_is_served_at_once_and_sealed(server):
    ask(server)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        answer, text = ask(server)
        times.append(time.perf_counter() - start)
    assert answer.status == 200 and "connect-src &#39;self&#39;" in text
    assert min(times) < 0.2
    assert answer.headers["X-Frame-Options"] == "DENY" and "Server" in answer.headers
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "[::]:1"])
def test_a_name_that_is_not_ours_is_refused(server, host):
    answer, _ = ask(server, Host=host.format(port=server.server_port))
    assert answer.status == 403


@pytest.mark.parametrize("path", ["/config.json", "/../config.json", "/%2e%2e/config.json",
                                  "//etc/passwd", "/state/", "/?a", "*"])  # fmt: skip
def test_no_file_is_ever_served(server, path):
    answer, text = ask(server, path)
    assert answer.status == 404 and text == "nothing here\n"


def test_nothing_but_reading_is_answered(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer, _ = ask(server, method=method)
        assert answer.status == 501
    answer, text = ask(server, method="HEAD")
    assert answer.status == 200 and text == ""


def test_news_arrive_when_the_run_goes_on(server, folder):
    before = json.loads(ask(server, "/state")[1])
    assert not server.live.refresh()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "eval/test/success": 0.875}\n')
    assert server.live.refresh()
    after = json.loads(ask(server, "/state")[1])
    assert after["version"] == before["version"] + 1 and "0.875" in after["line"]
    assert "iteration 3" in ask(server)[1]
    progress = {"phase": "rollout", "since": 1.0}
    (folder / "progress.json").write_text(json.dumps(progress))
    assert server.live.refresh()
    assert json.loads(ask(server, "/state")[1])["version"] == after["version"]


def test_a_port_that_is_taken_is_not_insisted_on(server, folder):
    with start_server(LivePage(open_runs([folder]), render), server.server_port) as other:
        assert other.server_port != server.server_port
    with pytest.raises(ConfigError, match="expected a number in"):
        start_server(server.live, 70_000)


def fetch(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=20) as answer:
        return answer.read().decode()


def test_a_page_beside_training_follows_and_ends_with_it(folder):
    with serve_beside(folder, port=0) as address:
        assert "hiperjax report" in fetch(address)
        assert json.loads(fetch(f"{address}state"))["version"] == 0
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"iteration": 3, "eval/test/success": 0.875}\n')
        deadline = time.monotonic() + 30
        while not json.loads(fetch(f"{address}state"))["version"]:
            assert time.monotonic() < deadline, "the page never heard of the iteration"
            time.sleep(0.1)
        assert "0.875" in json.loads(fetch(f"{address}state"))["line"]
    with pytest.raises(OSError):
        fetch(address)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_dies_quietly_when_told(folder, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"signal {number} is ignored here, as a shell does for its background jobs")
    command = [sys.executable, "-m", "hiperjax.cli", "watch", str(folder), "--port", "0"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=os.environ | {"PYTHONUNBUFFERED": "1"})  # fmt: skip
    assert watch.stdout is not None
    address = watch.stdout.readline().split()[0]
    assert "hiperjax report" in fetch(address)
    assert "iteration 1 of 4" in watch.stdout.readline()
    watch.send_signal(number)
    _, errors = watch.communicate(timeout=20)
    assert watch.returncode == 0 and errors == ""
