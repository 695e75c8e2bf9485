"""The style sheet of the selection report: light and dark, no fonts or files from elsewhere."""

STYLE = """
:root{color-scheme:light dark;--back:#fff;--fore:#1c1e21;--muted:#656b73;--rule:#dfe2e6;
--line-0:#0b62c4;--line-1:#d1570b;--line-2:#17853c;--line-3:#9a3ec4;--line-4:#b8860b;
--line-5:#c42b50;--line-6:#118a8a;--line-7:#6b7280}
@media(prefers-color-scheme:dark){:root{--back:#15171a;--fore:#e7e9ec;--muted:#9aa1aa;--rule:#33383f;
--line-0:#6cb0ff;--line-1:#ff9d5c;--line-2:#5fd28a;--line-3:#d095f2;--line-4:#e8c15a;
--line-5:#ff7f9f;--line-6:#5fd6d6;--line-7:#a3abb5}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--fore);
font:15px/1.5 system-ui,sans-serif}header,main{max-width:1320px;margin:auto;padding:0 20px}
h1{margin:28px 0 0;font-size:26px}
h2{margin:36px 0 10px;padding-top:12px;border-top:1px solid var(--rule);font-size:20px}
h3{margin:18px 0 4px}h4{margin:10px 0 4px;font-weight:600}
.muted,small{color:var(--muted)}ul.runs{padding:0;list-style:none}ul.runs li{margin:4px 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}td.wide{width:100%;min-width:260px;text-align:left;
white-space:normal}.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:18px;
margin:0 0 18px}
figure{margin:0}svg{width:100%;height:auto;font:13px system-ui,sans-serif;fill:var(--fore)}
svg .title{font-size:15px;font-weight:600}svg .grid{stroke:var(--rule)}
svg .tick{fill:var(--muted);text-anchor:end}svg .x{text-anchor:middle}
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}svg .dashed{stroke-dasharray:5 4}
.legend{margin:2px 0 0;padding:0;list-style:none;font-size:12px;display:flex;flex-wrap:wrap;
gap:2px 14px}
.legend i{display:inline-block;width:16px;margin:0 5px 4px 0;border-top:2px solid}
.legend i.dashed{border-top-style:dashed}.swatch{display:inline-block;width:10px;height:10px;
margin-right:6px;border-radius:2px}.bar{display:flex;height:12px;border-radius:3px;overflow:hidden}
.examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(130px,1fr));gap:12px}
.card{font-size:12px;line-height:1.35;overflow-wrap:anywhere}.card img{display:block;width:96px;
height:96px;object-fit:contain;image-rendering:auto;border:1px solid var(--rule);border-radius:4px;
margin-bottom:4px;background:#fff}pre{overflow-x:auto;font-size:12px}summary{cursor:pointer}
""".strip()
