"""Every record that came in is kept, dropped or quarantined; nothing else balances."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.account import Account, Balance, Line
from catchment.core.errors import Corrupt

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
counts = st.integers(0, 2**53)
reasons = st.dictionaries(names, st.integers(1, 2**53), max_size=3).map(Counter)
balances = st.builds(Balance, counts, counts, reasons, reasons)
lines = st.builds(
    Line, st.sampled_from("ab"), st.sampled_from("tu"), st.sampled_from(["rows", "files"])
)
accounts = st.dictionaries(lines, balances).map(Account)


def balanced(balance: Balance) -> Balance:
    return Balance(balance.received - balance.missing, balance.kept, balance.dropped, balance.quarantined)  # fmt: skip


@given(accounts)
def test_it_survives_json(account):
    text = json.dumps(account.to_json())
    again = Account.from_json(json.loads(text))
    assert again == account
    assert json.dumps(again.to_json()) == text


@given(accounts)
def test_json_tells_lines_and_reasons_in_order(account):
    told = account.to_json()
    order = [(d["site"], d["part"], d["unit"]) for d in told]
    assert order == sorted(order)
    assert all(
        list(d[fate]) == sorted(d[fate]) for d in told for fate in ("dropped", "quarantined")
    )


@given(balances)
def test_what_is_missing(balance):
    told = [balance.kept, *balance.dropped.values(), *balance.quarantined.values()]
    assert balance.missing == balance.received - sum(told)
    assert balanced(balance).missing == 0


@given(accounts)
def test_an_account_balances_where_each_line_does(account):
    wrong = [line for line, balance in account if balance.missing]
    if not wrong:
        account.check()
        return
    with pytest.raises(Corrupt) as caught:
        account.check()
    assert caught.value.kind == "account-unbalanced"
    assert all(f"{line.site}/{line.part}: " in caught.value.message for line in wrong[:10])
    Account({line: balanced(balance) for line, balance in account}).check()


def test_two_wrongs_do_not_balance_each_other():
    account = Account({Line("a", "t", "rows"): Balance(1), Line("b", "t", "rows"): Balance(0, 1)})
    assert account.total("rows").missing == 0
    with pytest.raises(Corrupt, match=r"a/t: 1 rows; b/t: -1 rows"):
        account.check()


@given(accounts, st.sampled_from([None, "a", "b"]), st.sampled_from([None, "t", "u"]))
def test_totals_are_sums(account, site, part):
    total = account.total("rows", site=site, part=part)
    chosen = [b for line, b in account if line.unit == "rows" and site in (None, line.site) and part in (None, line.part)]  # fmt: skip
    assert total.received == sum(b.received for b in chosen)
    assert total.kept == sum(b.kept for b in chosen)
    assert total.dropped == sum((b.dropped for b in chosen), Counter())
    assert total.quarantined == sum((b.quarantined for b in chosen), Counter())


def test_a_line_begins_with_nothing_and_grows():
    account = Account()
    account[Line("a", "t", "rows")].received += 3
    account[Line("a", "t", "rows")].dropped["transferred"] += 3
    assert [balance for _, balance in account] == [Balance(3, 0, Counter(transferred=3))]
    assert account != Account()
    assert account != "an account"


def test_it_has_no_hash():
    with pytest.raises(TypeError, match="grows"):
        hash(Account())


def test_many_wrong_lines_are_not_all_told():
    account = Account({Line(f"{n:02d}", "t", "rows"): Balance(1) for n in range(30)})
    with pytest.raises(Corrupt) as caught:
        account.check()
    assert caught.value.message.count("1 rows") == 10
