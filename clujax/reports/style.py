"""The style sheet of `report.html`: light and dark, phone and desk, no font or picture from elsewhere."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1c1c1e; --soft: #5b5b60; --ground: #fff; --card: #f5f5f7; --line: #d9d9de;
  --accent: #0072b2; --warn: #8a4b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #ececf0; --soft: #a9a9b2; --ground: #141416; --card: #1e1e22; --line: #38383e;
    --accent: #6bb8ea; --warn: #ffb45e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .2rem 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .5rem; }
h4 { font-size: .92rem; margin: 1rem 0 .2rem; }
p { margin: .5rem 0; }
a { color: var(--accent); }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.warn { color: var(--warn); }
.verdict {
  background: var(--card); border-left: 4px solid var(--accent); border-radius: 6px;
  padding: .8rem 1rem; margin: .8rem 0;
}
.verdict p { margin: .3rem 0; }

.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--card); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--ground); }
thead th:first-child { background: var(--card); }
tbody th { font-weight: inherit; }
td small, th small { display: block; color: var(--soft); font-weight: 400; }
tr.reference, tr.reference th { background: var(--card); }
tr.reference, tr.focus { font-weight: 600; }
tr.focus th { box-shadow: inset 4px 0 var(--accent); }
tr.floor { font-style: italic; }
.tag {
  border: 1px solid currentColor; border-radius: 4px; padding: 0 .3rem; color: var(--warn);
  font-size: .8rem; font-weight: 400; white-space: nowrap;
}
tr.last > *, .aside { color: var(--soft); }
td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 12rem; }

.figures { columns: 24rem; column-gap: 1.4rem; }
figure { margin: 0 0 1.4rem; break-inside: avoid; }
figure img {
  width: 100%; height: auto; display: block; background: #fff; border: 1px solid var(--line); border-radius: 6px;
}
figure.wide { column-span: all; }
figure.wide > div { overflow-x: auto; }
figcaption { margin: .4rem .1rem 0; }

details { margin: .7rem 0; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; background: var(--card); border-radius: 6px; padding: .7rem; margin: .5rem 0; }
pre { font-size: .85rem; }
dl { display: grid; grid-template-columns: minmax(3.5rem, max-content) 1fr; gap: .25rem 1rem; margin: .6rem 0; }
dl { font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@media print { h2 { break-before: page; } }
"""
