"""How the page of `fusionproxy report` looks, on a desk and a phone, by day and by night."""

STYLE = """
:root{--ground:#f6f6f4;--card:#fff;--text:#1b1d21;--muted:#5f656e;--line:#e1e1dc;--plot:#efefeb;--accent:#2b62c4;
--warm:#c2571a;--FUSED:#1e9a78;--HELD:#d99a00;--PASSTHROUGH:#d0602c;--REFUSED:#b4233c;--DROPPED:#7a4cc2;
--alert:#fdecea;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ground:#111316;--card:#1a1d21;--text:#e7e8ea;--muted:#9aa1ab;--line:#2c3036;
--plot:#22262b;--accent:#78a8ff;--warm:#ff9d5c;--FUSED:#2fb892;--HELD:#e8b32c;--PASSTHROUGH:#ee7b45;--REFUSED:#e4506a;
--DROPPED:#a47df0;--alert:#3a1d1f;--on:#0e1013}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:clamp(16px,4vw,40px)}
h1,h2{margin:.1em 0 .7em;font-weight:650;line-height:1.22;letter-spacing:-.012em;
text-wrap:balance;overflow-wrap:anywhere}
h1{font-size:clamp(1.35rem,3.4vw,2rem)}
h2{font-size:clamp(1.2rem,2.6vw,1.6rem)}
h3{margin:0 0 .7em;font-size:1.02rem;font-weight:650}
main>article{margin-bottom:24px}
main>article+article,.scroll+article{border-top:1px solid var(--line);padding-top:32px;margin-top:48px}
article>section{margin-top:36px}
.over{margin:0 0 6px;color:var(--muted);font-size:.86rem;overflow-wrap:anywhere}
small,.fine{color:var(--muted);font-size:.84rem}
a{color:var(--accent)}
.damage{background:var(--alert);border-left:4px solid var(--REFUSED);border-radius:6px;
padding:12px 16px;margin:0 0 20px}
.damage h3{margin:0 0 .3em}.damage ul{margin:0;padding-left:1.1em;font-size:.9rem;overflow-wrap:anywhere}
.bar{display:flex;gap:2px;height:14px;border-radius:7px;overflow:hidden}
.bar span{min-width:4px;flex-basis:0}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 22px;margin:10px 0 0;padding:0;font-size:.9rem;
font-variant-numeric:tabular-nums}
.legend b{font-size:.78rem;letter-spacing:.04em}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:7px}
.notes{margin:20px 0 0;padding:0;list-style:none;display:grid;gap:8px}
.notes li{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--HELD);border-radius:6px;
padding:9px 14px;font-size:.93rem;overflow-wrap:anywhere}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,158px),1fr));background:var(--card);
border:1px solid var(--line);border-radius:10px;overflow:hidden;margin:24px 0 0}
.facts>div{padding:12px 14px;margin:0 -1px -1px 0;border:solid var(--line);border-width:0 1px 1px 0}
.facts dt{color:var(--muted);font-size:.8rem}
.facts dd{margin:1px 0 0;font-size:1.12rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.facts small{display:block;font-weight:400;font-size:.79rem;line-height:1.35}
.timeline{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:18px clamp(12px,2.2vw,22px) 12px}
.markers{position:relative;margin-bottom:3px}
.markers a{position:absolute;transform:translateX(-50%);width:20px;height:20px;border-radius:50%;background:var(--text);
color:var(--card);font-size:.74rem;font-weight:650;line-height:20px;text-align:center;text-decoration:none}
.lane{margin:0 0 14px}
.lane figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px;
font-size:.85rem;margin-bottom:3px}
.lane figcaption b{font-weight:600}.lane figcaption span{color:var(--muted);font-variant-numeric:tabular-nums}
.plot{position:relative;height:74px;background:var(--plot);border-radius:4px;overflow:hidden}
.plot svg{position:absolute;inset:0;width:100%;height:100%}
.plot:has(.modes){height:44px}
.plot i{position:absolute;left:3px;padding:0 4px;border-radius:3px;
font:.7rem/1.4 system-ui,"Liberation Sans",sans-serif;
color:var(--muted);background:color-mix(in srgb,var(--plot) 75%,transparent);pointer-events:none}
.plot i:empty{display:none}.high{top:2px}.low{bottom:2px}
.curves path{stroke-width:1.4px;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.curve0{fill:var(--accent);stroke:var(--accent)}.curve1{fill:var(--warm);stroke:var(--warm)}
.modes rect:hover{opacity:.7}
.axis{display:flex;justify-content:space-between;color:var(--muted);font-size:.76rem;font-variant-numeric:tabular-nums}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr));gap:18px}
.sheet .cards{grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px;min-width:0;
scroll-margin:12px}
.card:target{outline:2px solid var(--accent)}
.when{display:flex;align-items:center;gap:9px;margin:0 0 9px;font-weight:600;font-size:.92rem;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.number{flex:none;width:21px;height:21px;border-radius:50%;background:var(--text);color:var(--card);font-size:.76rem;
line-height:21px;text-align:center}
.badge{flex:none;border-radius:4px;padding:1px 7px;
color:var(--on);font-size:.69rem;font-weight:650;letter-spacing:.04em;
white-space:nowrap}
.badge.HELD{color:#1c1600}.when .badge{margin-left:auto}
.pictures{display:grid;grid-template-columns:2fr 1fr;grid-auto-rows:1fr;gap:4px}
.pictures figure{position:relative;margin:0;min-height:60px;border-radius:5px;overflow:hidden;background:var(--plot)}
.pictures .fused{grid-column:1;grid-row:1/3}
.pictures img{display:block;width:100%;height:100%;object-fit:contain}
.pictures figcaption{position:absolute;left:4px;bottom:4px;padding:0 6px;border-radius:3px;background:#000a;color:#fff;
font-size:.68rem;line-height:1.5}
.none{display:grid;place-items:center;height:100%;min-height:60px;color:var(--muted);font-size:.8rem}
.none+figcaption{display:none}
.point{margin:9px 0 0;font-size:.9rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:8px 14px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--muted);font-size:.8rem;font-weight:500}
tbody th{font-weight:600;white-space:nowrap}
.reasons td:last-child{overflow-wrap:anywhere}
@media(max-width:600px){.reasons thead{display:none}.reasons tr{display:grid;grid-template-columns:auto 1fr}
.reasons td:last-child{grid-column:1/3;border:0;padding-top:0}}
.best{font-weight:700;color:var(--FUSED)}
.fine{margin:.7em 2px 0}
"""
