"""Keeping udev away from our devices, where it runs."""

import subprocess

from harness.kernel import udev


def test_where_udev_does_not_run_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(udev, "_CONTROL", tmp_path / "control")
    monkeypatch.setattr(udev, "_RULES", tmp_path / "rules.d/55-dmsnap.rules")
    with udev.kept_away():
        assert list(tmp_path.iterdir()) == []


def test_udev_has_a_rule_for_our_devices_for_a_while(tmp_path, monkeypatch):
    asked = []
    (tmp_path / "control").touch()
    monkeypatch.setattr(udev, "_CONTROL", tmp_path / "control")
    monkeypatch.setattr(udev, "_RULES", tmp_path / "rules.d/55-dmsnap.rules")
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: asked.append(argv[1:]))
    with udev.kept_away():
        rule = (tmp_path / "rules.d/55-dmsnap.rules").read_text()
        assert 'ENV{DM_UUID}=="DMSNAP-*", SYMLINK="", ' in rule
        assert rule.count("\n") == 1
        assert asked == [["control", "--reload"]]
    assert list((tmp_path / "rules.d").iterdir()) == []
    assert asked == [["control", "--reload"]] * 2
